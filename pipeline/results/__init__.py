"""Records and tables of results: what an evaluation writes and a report reads."""
