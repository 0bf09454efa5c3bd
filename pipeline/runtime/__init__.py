"""Process-level support: distributed training, devices, signals, memory, provenance."""
