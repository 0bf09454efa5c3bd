"""`export`: a student as a single file for other programs, with a model card."""
