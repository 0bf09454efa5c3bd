"""Find out whether PyTorch can use a GPU, and warn once of a GPU that is there but idle."""

import functools
import os
import subprocess
import sys
import warnings

import torch

HIDDEN = (
    "",
    "-1",
    "NoDevFiles",
)  # values of CUDA_VISIBLE_DEVICES that hide every GPU; Slurm sets the last one
PATIENCE = 30  # seconds for nvidia-smi, which takes some on a machine with many GPUs


def find_cuda() -> tuple[bool, str]:
    """Return whether PyTorch can use a GPU, and if not, why the machine's GPU is idle.

    The reason is "" if the machine has no GPU or CUDA_VISIBLE_DEVICES hides it. If PyTorch warns, for example of a
    driver that is too old, its text is the reason.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return True, ""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN:
        return False, ""
    if caught:
        return False, str(caught[-1].message).partition(" (Triggered internally")[0]
    if not has_nvidia_gpu():
        return False, ""
    if torch.version.cuda is None:
        return False, "this PyTorch was built without CUDA"
    return False, "nvidia-smi lists a GPU, but PyTorch finds none"


@functools.cache
def has_nvidia_gpu() -> bool:
    """Return whether nvidia-smi lists a GPU."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.stdout.startswith("GPU")


@functools.cache
def warn_once(message: str) -> None:
    """Print a warning to stderr, unless this process has printed it before."""
    print(f"warning: {message}", file=sys.stderr)
