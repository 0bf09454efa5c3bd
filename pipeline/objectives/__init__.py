"""Training objectives: one per file, all with the interface of objective.py."""
