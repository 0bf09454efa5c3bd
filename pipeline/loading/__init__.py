"""FFCV's side of training: batches of images joined to the teacher's cached rows."""
