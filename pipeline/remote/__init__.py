"""Datasets and caches by URL: copied here once and verified, and sent there when a command has written them."""
