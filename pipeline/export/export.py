"""A run's student for other programs: weights or graph in one file, and a model card beside it."""

import torch
from torch import Tensor

from cache.durable import write_file
from pipeline.errors import WrongUse
from pipeline.export.model_card import Exported, model_card
from pipeline.export.onnx import onnx_model
from pipeline.models.checkpoints import load_safetensors, save_safetensors
from pipeline.models.student_file import load_run_student
from pipeline.results.run_record import read_config
from pipeline.settings.commands import EXPORT_FORMATS, ExportConfig
from pipeline.teachers.licences import teacher_licence, teacher_name


def export_student(config: ExportConfig) -> None:
    """Write a run's student without its head to OUT, and OUT.card.md, which says what it is and was made of.

    safetensors: the tensors under the architecture's own names (torchvision's, timm's). onnx: the graph, from
    `images` (batch, 3, size, size) to `features` (batch, dim), both float32. Both name student, input and teacher.
    Raises WrongUse for a suffix that is not the format's, PipelineError when the folder holds no run with a student
    or an ONNX runtime computes other features than torch.
    """
    form = export_format(config)
    tensors, metadata = load_safetensors(config.run / "student.safetensors")
    record = read_config(config.run)
    backbone = load_run_student(config.run)
    metadata |= {"teacher": teacher_name(record), "teacher_licence": teacher_licence(record)}
    if form == "onnx":
        write_file(config.out, onnx_model(backbone.module, metadata, half=config.half))
    else:
        save_safetensors(config.out, halved(tensors) if config.half else tensors, metadata)
    exported = Exported(run=config.run, file=config.out, half=config.half, record=record, student=metadata)
    card = config.out.with_name(f"{config.out.name}.card.md")
    write_file(card, model_card(exported, backbone.preprocessing.identity()).encode())
    size = config.out.stat().st_size / 1e6
    told = f"{metadata['student']}, {metadata['dim']}-d at {metadata['image_size']} px, {size:.1f} MB"
    print(f"{config.out}: {told}; its model card is {card}")


def export_format(config: ExportConfig) -> str:
    """The format asked for, or that of OUT's suffix; WrongUse when the two differ or there is none."""
    form = config.format or config.out.suffix.removeprefix(".")
    if form not in EXPORT_FORMATS or config.out.suffix != f".{form}":
        expected = [f".{form}"] if form in EXPORT_FORMATS else [f".{known}" for known in EXPORT_FORMATS]
        raise WrongUse(
            f"{config.out} ends in {config.out.suffix!r}: expected {' or '.join(expected)}; rename it"
        )
    return form


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """float32 as float16; whole numbers stay as they are."""
    return {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
