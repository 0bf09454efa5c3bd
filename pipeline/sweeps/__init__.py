"""Grids of runs over one cache."""
