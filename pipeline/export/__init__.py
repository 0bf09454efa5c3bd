"""A student for other programs."""
