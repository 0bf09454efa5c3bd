"""Optimizers, and the learning rate as a function of the step."""

import math

import torch
from torch import nn

from pipeline.settings.training import DistillConfig, PretrainConfig

STEPS_AT = (90 / 130, 120 / 130)
STEP_FACTOR = 0.2


def learning_rate(step: int, *, peak: float, steps: int, warmup: int, schedule: str) -> float:
    """Return the learning rate of step `step` (from 0) of `steps`.

    schedule: "step" multiplies by 0.2 after 90/130 and 120/130 of the run, the paper's epochs; "cosine" decays to zero.
    The first `warmup` steps increase linearly to the peak.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "step":
        return peak * STEP_FACTOR ** sum(step >= share * steps for share in STEPS_AT)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


MOMENTUM = 0.9


def build_optimizer(config: DistillConfig | PretrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Build SGD with momentum 0.9, as in the paper, or AdamW; training sets the learning rate of every step."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), 0.0, weight_decay=config.wd)
    return torch.optim.SGD(network.parameters(), 0.0, momentum=MOMENTUM, weight_decay=config.wd)
