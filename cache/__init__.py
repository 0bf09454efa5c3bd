"""The store: a dataset's embeddings as a Zarr v3 group whose chunk files can be mapped into memory."""
