"""Optimizers, and the learning rate as a function of the step."""

import math
from typing import Any

import torch
from torch import nn

from pipeline.settings.training import DistillConfig, PretrainConfig

# share of the run at which the rate drops, and the factor of each drop
STEPS = {"step": ((90 / 130, 120 / 130), 0.2), "step-30-60-80": ((0.3, 0.6, 0.8), 0.1)}


def learning_rate(step: int, *, peak: float, steps: int, warmup: int, schedule: str) -> float:
    """Return the learning rate of step `step` (from 0) of `steps`.

    schedule: "step" multiplies by 0.2 after 90/130 and 120/130 of the run, the paper's epochs; "step-30-60-80" by 0.1
    after 30, 60 and 80 percent, as for the paper's cluster classifier; "cosine" decays to zero. The first `warmup`
    steps increase linearly to the peak.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule in STEPS:
        shares, factor = STEPS[schedule]
        return peak * factor ** sum(step >= share * steps for share in shares)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


MOMENTUM = 0.9


def build_optimizer(config: DistillConfig | PretrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Build SGD with momentum 0.9, as in the paper, or AdamW; training sets the learning rate of every step.

    "nesterov" is the optimizer of CompRess's cluster classifier: its batch norm has no weight decay. On a GPU, a step
    updates all parameters in one kernel.
    """
    fused = True if next(network.parameters()).is_cuda else None
    if config.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), 0.0, weight_decay=config.wd, fused=fused)
    if config.optimizer == "nesterov":
        parameters, nesterov = without_norm_decay(network), True
    else:
        parameters, nesterov = [{"params": list(network.parameters())}], False
    return torch.optim.SGD(
        parameters, 0.0, momentum=MOMENTUM, weight_decay=config.wd, nesterov=nesterov, fused=fused
    )


def without_norm_decay(network: nn.Module) -> list[dict[str, Any]]:
    """Return parameter groups in which the parameters of batch norm have weight decay 0; no group is empty."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    of_norms = [parameter for norm in norms for parameter in norm.parameters()]
    ids = set(map(id, of_norms))
    others = [parameter for parameter in network.parameters() if id(parameter) not in ids]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": of_norms, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
