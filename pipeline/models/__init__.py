"""Networks: architectures, students, checkpoints, optimisers."""
