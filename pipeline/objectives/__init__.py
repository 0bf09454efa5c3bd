"""What a student can be trained with: one objective a file, all behind the interface of objective.py."""
