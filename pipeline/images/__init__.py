"""From image files to a dataset: reading and decoding them, rows, identity, .beton."""
