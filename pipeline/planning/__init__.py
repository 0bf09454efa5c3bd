"""`plan`: time, memory and storage of both stages, estimated before running them."""
