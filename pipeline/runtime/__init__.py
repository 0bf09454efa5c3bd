"""What a process needs to run: ranks and devices, signals, memory, provenance."""
