"""Stage two: the training loop of distillation and pretraining."""
