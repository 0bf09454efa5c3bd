"""Precision of training, and precision and determinism of CUDA.

The CPU always computes float32 in full, and repeats itself bit for bit.
"""

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from pipeline.errors import PipelineError

# Instructions that multiply bfloat16, as `torch.cpu.get_capabilities` names them: two of x86, and one of Arm. Without
# them a step in bfloat16 takes longer than in float32, with AVX2 nine times as long.
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def usual_precision(device: torch.device) -> str:
    """Return the default of --amp-dtype on a device: bf16 if it multiplies bfloat16, else fp32."""
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        has_bf16 = any(found.get(name, False) for name in BF16_INSTRUCTIONS)
    else:
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"


def use_full_float32() -> None:
    """Let float32 mean float32 on CUDA: PyTorch's default rounds the factors of convolutions to TF32, 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextlib.contextmanager
def tf32_products(enabled: bool = True) -> Iterator[None]:
    """Compute float32 matrix products in TF32 on CUDA within the context, if enabled; the CPU does not have it.

    Factors are rounded to 10 bits, in which float16 is exact, and sums are in float32.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = enabled or before
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def choose_algorithms(device: torch.device, *, deterministic: bool) -> None:
    """Let cuDNN time its algorithms and take the fastest or, if deterministic, let CUDA only use repeatable ones.

    An operation without a repeatable algorithm then raises RuntimeError, see `explain_nondeterminism`. On the CPU there
    is nothing to choose.
    """
    if device.type == "cpu":
        return
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)


@contextlib.contextmanager
def explain_nondeterminism() -> Iterator[None]:
    """Turn the error of an operation that has no repeatable algorithm into a PipelineError."""
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if not found:
            raise
        raise PipelineError(
            f"--deterministic: {found[1]}, which this student needs, has no repeatable algorithm in PyTorch; leave the "
            "flag out, or train another student"
        ) from error
