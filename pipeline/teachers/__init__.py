"""Teachers: what is known of each, and how its weights are found and loaded."""
