"""The store: embeddings of a dataset's rows as a Zarr v3 group that is also plain memory."""
