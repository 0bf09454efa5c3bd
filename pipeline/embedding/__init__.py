"""Stage one: run a backbone over every image and write the embeddings to a store."""
