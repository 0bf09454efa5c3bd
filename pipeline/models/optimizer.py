"""Learning rate as a pure function of the step."""

import math

import torch
from torch import nn

from pipeline.settings.commands import DistillConfig, PretrainConfig

STEPS_AT = (90 / 130, 120 / 130)
STEP_FACTOR = 0.2


def learning_rate(step: int, *, peak: float, steps: int, warmup: int, schedule: str) -> float:
    """The rate of step `step` (from 0) of `steps`.

    "step" multiplies by 0.2 where the paper does, after epochs 90 and 120 of 130, whatever the length of the
    run; "cosine" falls to zero. The first `warmup` steps rise linearly to the peak.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "step":
        return peak * STEP_FACTOR ** sum(step >= share * steps for share in STEPS_AT)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


MOMENTUM = 0.9


def build_optimizer(config: DistillConfig | PretrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, the paper's, or AdamW; the rate is set at every step."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), config.lr, weight_decay=config.wd)
    return torch.optim.SGD(network.parameters(), config.lr, momentum=MOMENTUM, weight_decay=config.wd)
