"""Data loading with FFCV: batches of images joined to the teacher's cached embeddings."""
