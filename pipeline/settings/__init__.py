"""Every command's settings: their defaults, help, bounds, and the TOML files that set them."""
