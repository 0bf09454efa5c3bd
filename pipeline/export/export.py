"""`export`: a run's student as a safetensors or ONNX file, with a model card beside it."""

import torch
from torch import Tensor

from cache.durable import write_file
from pipeline.errors import WrongUse
from pipeline.export.model_card import Exported, model_card
from pipeline.export.onnx import onnx_model
from pipeline.images.dataset import open_dataset
from pipeline.models.checkpoints import load_safetensors, save_safetensors
from pipeline.models.student_file import STUDENT_FILE, load_run_student
from pipeline.remote.download import local_copy
from pipeline.results.records import is_run
from pipeline.results.run_record import read_config
from pipeline.runtime.outputs import require_writable_file
from pipeline.settings.commands import EXPORT_FORMATS, ExportConfig
from pipeline.teachers.licences import teacher_licence, teacher_name


def export_student(config: ExportConfig) -> None:
    """Write a run's student without its head to OUT, and its model card to OUT.card.md.

    safetensors: the tensors under the architecture's own names (torchvision's or timm's). onnx: the graph, from
    `images` (batch, 3, size, size) to `features` (batch, dim), both float32. Metadata in the file name the student, its
    input and its teacher.

    With --int8 the graph is quantized, see `quantize`.

    Raises WrongUse when the suffix does not match the format, PipelineError when the folder has no student, or ONNX
    Runtime's features differ from PyTorch's.
    """
    file_format = export_format(config)
    if config.int8 and (file_format != "onnx" or config.half):
        raise WrongUse("--int8 is for ONNX files, and not with --half: name OUT.onnx, or leave it out")
    if config.out.name == STUDENT_FILE and is_run(config.out.parent):
        raise WrongUse(f"{config.out} is the student of a run, which would be lost: name another file")
    require_writable_file(config.out)
    tensors, metadata = load_safetensors(config.run / STUDENT_FILE)
    record = read_config(config.run)
    backbone = load_run_student(config.run)
    metadata |= {"teacher": teacher_name(record), "teacher_licence": teacher_licence(record)}
    note = ""
    if file_format == "onnx":
        content = onnx_model(backbone.module, metadata, half=config.half)
        if config.int8:
            from pipeline.export.quantize import (  # here, as its libraries are slow to import
                quantized,
                sample,
            )

            dataset = open_dataset(config.dataset or local_copy(record["config"]["dataset"]))
            train = dataset.split("train")
            images = [
                sample(each, backbone.preprocessing) for each in (train, dataset.splits.get("val", train))
            ]
            content, cosine = quantized(content, *images)
            note = f", int8, mean cosine {cosine:.4f} to float32"
        write_file(config.out, content, resumes=False)
    else:
        written = to_float16(tensors) if config.half else tensors
        save_safetensors(config.out, written, metadata, resumes=False)
    exported = Exported(
        run=config.run, file=config.out, half=config.half, int8=config.int8, record=record, student=metadata
    )
    card = config.out.with_name(f"{config.out.name}.card.md")
    write_file(card, model_card(exported, backbone.preprocessing.identity()).encode(), resumes=False)
    size = config.out.stat().st_size / 1e6
    facts = f"{metadata['student']}, {metadata['dim']}-d at {metadata['image_size']} px, {size:.1f} MB"
    print(f"{config.out}: {facts}{note}; its model card is {card}")


def export_format(config: ExportConfig) -> str:
    """Return the configured format, by default that of OUT's suffix. Raises WrongUse when the suffix does not match."""
    name = config.format or config.out.suffix.removeprefix(".")
    if name not in EXPORT_FORMATS or config.out.suffix != f".{name}":
        expected = [f".{name}"] if name in EXPORT_FORMATS else [f".{known}" for known in EXPORT_FORMATS]
        raise WrongUse(
            f"{config.out} ends in {config.out.suffix!r}: expected {' or '.join(expected)}; rename it"
        )
    return name


def to_float16(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert float32 tensors to float16 and leave integer tensors as they are."""
    return {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
