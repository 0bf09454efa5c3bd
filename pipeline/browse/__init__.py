"""A page in the browser: images on a map, and the neighbours that teacher and students find for them."""
