"""From files of images to a dataset: reading and decoding them, rows, identity, .beton."""
