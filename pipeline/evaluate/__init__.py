"""Evaluation protocols: each module's evaluate() yields pairs (metric, accuracy as a fraction)."""
