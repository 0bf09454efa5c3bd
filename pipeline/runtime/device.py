"""The device that a process computes on: the CPU, or its own GPU."""

import os

import torch

from pipeline.errors import WrongUse
from pipeline.runtime.distributed import is_main_process
from pipeline.runtime.idle_gpu import find_cuda, warn_once
from pipeline.runtime.precision import use_full_float32

CPU = torch.device("cpu")


def resolve_device(name: str) -> torch.device:
    """Return the CPU or this rank's GPU; "auto" means a GPU if there is one.

    On a GPU, float32 from then on means float32. Warns once if "auto" leaves a GPU idle, and says why. Raises WrongUse
    for CUDA without a GPU, and for more ranks on this machine than GPUs.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise WrongUse(f"unknown device {name!r}: expected auto, cpu or cuda")
    if name == "cpu":
        return CPU
    available, reason = find_cuda()
    if not available and name == "cuda":
        detail = f" ({reason})" if reason else ""
        raise WrongUse(f"--device cuda: PyTorch finds no CUDA device{detail}; use --device cpu")
    if not available:
        if reason and is_main_process():
            warn_once(f"PyTorch runs on the CPU although this machine has a GPU: {reason}")
        return CPU
    ranks, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if ranks > gpus:
        raise WrongUse(
            f"{ranks} ranks on this machine need a GPU each, and PyTorch finds {gpus}: start torchrun with "
            f"--nproc-per-node={gpus} (make with GPUS={gpus}), or give --device cpu"
        )
    use_full_float32()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def gpu_record(device: torch.device) -> dict[str, str]:
    """Return what a record adds for a GPU, its kind and model; {} for the CPU."""
    if device.type == "cpu":
        return {}
    return {"device": device.type, "gpu": torch.cuda.get_device_name(device)}
