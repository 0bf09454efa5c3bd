"""Networks: architectures, students, checkpoints, optimizers."""
