"""`sweep`: grids of runs over one cache."""
