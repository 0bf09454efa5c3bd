"""Reports: results of runs and caches as tables."""
