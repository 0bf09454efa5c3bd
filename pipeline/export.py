"""A run's student for other programs: its weights without the head, in its architecture's own names."""

from pathlib import Path

import torch

from pipeline.checkpoints import load_safetensors, save_safetensors
from pipeline.errors import WrongUse


def export_student(run: Path, out: Path, *, half: bool) -> None:
    """Write a run's student to OUT.safetensors, in float16 if `half`; whole numbers stay as they are.

    Raises WrongUse for another suffix, PipelineError when the run has no student.
    """
    if out.suffix != ".safetensors":
        raise WrongUse(f"{out} ends in {out.suffix!r}: expected .safetensors")
    tensors, metadata = load_safetensors(run / "student.safetensors")
    if half:
        tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
    save_safetensors(out, tensors, metadata)
    size = out.stat().st_size / 1e6
    print(f"{out}: {metadata['student']}, {metadata['dim']}-d at {metadata['image_size']} px, {size:.1f} MB")
