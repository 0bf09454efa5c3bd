"""Stage two: the training loop of distillation and of pretraining."""
