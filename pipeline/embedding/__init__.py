"""Stage one: a backbone over every image, its embeddings into a store."""
