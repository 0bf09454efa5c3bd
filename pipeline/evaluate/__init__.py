"""Evaluations: each module's evaluate() yields (metric, accuracy as a fraction)."""
