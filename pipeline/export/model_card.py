"""The model card of an exported student: usage, lineage, training, evaluation, license and limitations."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.export.usage_example import usage_example
from pipeline.results.metrics_file import Evaluation, read_evaluations
from pipeline.results.plain_text import plain, plain_fields
from pipeline.results.run_record import FREE_SETTINGS
from pipeline.teachers.licences import NONE, NOT_RECORDED, licence_identifier, licence_terms

SHORT = 16  # digits of an id that are shown
TAGS = ("self-supervised-learning", "knowledge-distillation", "compress")
RISKS = """\
- The student inherits biases of its training images and of its teacher. Its behavior on different groups of people has
  not been evaluated.
- Metrics hold for the images, the preprocessing and the input size that they were measured with.
- Features may distinguish faces, people and places although no label asked for it. The authors of CompRess (Abbasi
  Koohpayegani et al., 2020) name surveillance as a risk: a model this small runs in cameras and phones.
- Image datasets have terms of their own, which are not recorded here: ImageNet's allow non-commercial research only."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An export: its run, its file, the run's record and the student file's metadata."""

    run: Path
    file: Path
    half: bool
    int8: bool = False
    record: Mapping[str, Any]
    student: Mapping[str, str]


def model_card(exported: Exported, preprocessing: Mapping[str, Any]) -> str:
    """Return the card, ending in a newline. preprocessing: the identity of the student's centre crop."""
    student, teacher = exported.student, exported.student["teacher"]
    origin = "trained without a teacher"
    if teacher != NONE:
        origin = f"distilled from {'a teacher' if teacher == NOT_RECORDED else quoted(teacher)}"
    code = usage_example(exported.file.name, student, preprocessing)
    sections = {
        "Usage": f"```python\n{code}```\n\n{input_sentence(exported, preprocessing)}",
        "Lineage": table(("", "value"), lineage(exported)),
        "Training": training(exported),
        "Evaluation": evaluation(read_evaluations(exported.run / "metrics.json")),
        "Licence": licence_terms(teacher, student["teacher_licence"]),
        "Risks and limitations": RISKS,
    }
    opening = [
        front_matter(exported),
        f"# {plain(student['student'])}, {origin}",
        f"A small image encoder without a classifier: {student['dim']} features per image "
        f"({plain(student['feature'])}), not normalized.{unfinished(student)}",
    ]
    body = [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join([*opening, *body]) + "\n"


def front_matter(exported: Exported) -> str:
    """Return the card's YAML front matter, with values in JSON, which YAML includes."""
    name = exported.student["student"]
    library = "timm" if name.startswith("timm/") else "pytorch" if ":" in name else "torchvision"
    objective = exported.record["config"].get("objective", "simclr")
    fields: dict[str, Any] = {
        "license": licence_identifier(exported.student["teacher_licence"]),
        "library_name": "onnx" if exported.file.suffix == ".onnx" else library,
        "pipeline_tag": "image-feature-extraction",
        "tags": [*TAGS[: 1 if exported.student["teacher"] == NONE else None], objective],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def input_sentence(exported: Exported, preprocessing: Mapping[str, Any]) -> str:
    """Describe the input's preprocessing and the precision of the weights."""
    half = " The weights are in float16." if exported.half else ""
    half += " Weights and activations are in int8, calibrated on training images." if exported.int8 else ""
    view = {key: plain(value) for key, value in preprocessing.items()}
    return (
        f"Input: upright RGB; shorter side resized to {view['resize']} px ({view['interpolation']}), centre crop of "
        f"{view['crop']} px, scaled to [0, 1], normalized by mean {view['mean']} and std {view['std']}.{half}"
    )


def unfinished(student: Mapping[str, str]) -> str:
    """Return a warning if the run had not finished when its student was saved."""
    step, steps = student.get("step"), student.get("steps")
    return "" if step == steps else f" **Its training stopped at step {step} of {steps}.**"


def lineage(exported: Exported) -> dict[str, str]:
    """Return the dataset, the teacher and the cache that the student was trained from, with their ids."""
    made, dataset = exported.record["made_of"], exported.record["made_of"]["dataset"]
    classes = f", {len(dataset['classes']):,} classes" if dataset.get("classes") else ""
    facts = {
        "images": f"{dataset['rows']:,} of `{dataset['split']}`{classes}; id {dataset['images'][:SHORT]}",
        "teacher": quoted(exported.student["teacher"]),
    }
    if exported.student["teacher"] == NONE:
        return facts
    teacher = made.get("teacher", {})
    known = {key: plain(value) for key, value in teacher.items() if key in ("architecture", "feature", "dim")}
    return {
        **facts,
        **{f"teacher's {key}": value for key, value in known.items()},
        "teacher's preprocessing": plain(teacher.get("preprocessing", NOT_RECORDED)),
        "teacher's weights": f"{plain(teacher.get('file', 'file not recorded'))}; "
        f"sha256 of the tensors {plain(teacher.get('weights', NOT_RECORDED))[:SHORT]}",
        "licence of the teacher's weights": exported.student["teacher_licence"],
        "cache of embeddings": f"id {made['cache'][:SHORT]}",
    }


def training(exported: Exported) -> str:
    """Return the training command, its settings and its provenance."""
    record = exported.record
    settings = {key: value for key, value in record["config"].items() if key not in FREE_SETTINGS}
    lines = json.dumps(settings, indent=1)
    return f"`{record['command']}` with\n\n```json\n{lines}\n```\n\n{provenance_list(record.get('provenance', {}))}"


def evaluation(evaluations: Sequence[Evaluation]) -> str:
    """Return each evaluation's metrics in percent and its provenance."""
    if not evaluations:
        return "Not evaluated."
    parts = [
        table(("metric", "%"), {key: f"{100 * value:.1f}" for key, value in each.metrics.items()})
        + f"\n\n{provenance_list(each.provenance)}"
        for each in evaluations
        if each.metrics
    ]
    return "\n\n".join(parts)


def provenance_list(provenance: Mapping[str, Any]) -> str:
    """Return a record's provenance as a Markdown list."""
    facts = [f"- {key}: {value}" for key, value in plain_fields(provenance).items()]
    return "\n".join(facts) or f"Provenance: {NOT_RECORDED}."


def table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    """Return a Markdown table of two columns, with bars in the cells escaped."""
    lines = [head, ("---", "---"), *rows.items()]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def quoted(name: str) -> str:
    """Return a teacher's name as inline code; "none" and "not recorded" stay plain."""
    return name if name in (NONE, NOT_RECORDED) else f"`{name}`"
