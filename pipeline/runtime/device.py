"""The device that a process computes on: the CPU, or its own GPU."""

import os

import torch

from pipeline.errors import WrongUse

CPU = torch.device("cpu")


def resolve_device(name: str) -> torch.device:
    """Return the CPU or this rank's GPU, the only place that names CUDA; "auto" means a GPU if there is one.

    Raises WrongUse for CUDA without a GPU, and for more ranks on this machine than GPUs.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise WrongUse(f"unknown device {name!r}: expected auto, cpu or cuda")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise WrongUse("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    if name == "cpu" or not there:
        return CPU
    ranks, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if ranks > gpus:
        raise WrongUse(
            f"{ranks} ranks on this machine need a GPU each, and PyTorch finds {gpus}: start torchrun with "
            f"--nproc-per-node={gpus}, or give --device cpu"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def gpu_record(device: torch.device) -> dict[str, str]:
    """Return what a record adds for a GPU, its kind and model; {} for the CPU."""
    if device.type == "cpu":
        return {}
    return {"device": device.type, "gpu": torch.cuda.get_device_name(device)}
