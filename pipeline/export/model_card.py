"""A model card: Markdown that tells what an exported student is, what it was made of, and what to mind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.export.usage_example import usage_example
from pipeline.results.metrics_file import Evaluation, read
from pipeline.results.plain_text import plain
from pipeline.results.run_record import FREE_SETTINGS
from pipeline.teachers.licences import NONE, NOT_RECORDED, licence_identifier, licence_terms

SHORT = 16  # digits of an id that tell it from all others
TAGS = ("self-supervised-learning", "knowledge-distillation", "compress")
RISKS = """\
- The student takes over what its images, and its teacher if it had one, hold alike for wrong reasons. Nobody has looked
  at how it treats people of different groups.
- Numbers hold for the images, the preprocessing and the size that they were measured with.
- Features may tell faces, persons and places apart, although no label asked for it. The authors of CompRess (Abbasi
  Koohpayegani et al., 2020) name surveillance: a network this small runs in cameras and phones.
- Image sets have terms of their own, which are not recorded here: ImageNet's allow research that is not commercial."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was exported: from which run, into which file, and the records of run and student."""

    run: Path
    file: Path
    half: bool
    record: Mapping[str, Any]
    student: Mapping[str, str]


def model_card(exported: Exported, preprocessing: Mapping[str, Any]) -> str:
    """The whole card, ending in a newline. preprocessing: the identity of the student's centre view."""
    student, teacher = exported.student, exported.student["teacher"]
    taught = "trained without a teacher"
    if teacher != NONE:
        taught = f"distilled from {'a teacher' if teacher == NOT_RECORDED else quoted(teacher)}"
    code = usage_example(exported.file.name, student, preprocessing)
    sections = {
        "Use": f"```python\n{code}```\n\n{input_sentence(exported, preprocessing)}",
        "What it was made of": table(("", "of"), made_of(exported)),
        "How it was trained": training(exported),
        "Numbers": numbers(read(exported.run / "metrics.json")),
        "Licence": licence_terms(teacher, student["teacher_licence"]),
        "Risks and limits": RISKS,
    }
    opening = [
        front_matter(exported),
        f"# {plain(student['student'])}, {taught}",
        f"A small network for images, without its classifier: {student['dim']} features an image "
        f"({plain(student['feature'])}), not normalised.{unfinished(student)}",
    ]
    body = [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join([*opening, *body]) + "\n"


def front_matter(exported: Exported) -> str:
    """The card's head in YAML, whose strings are written as JSON has them."""
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
    """What the code above does to a picture, and what the file holds."""
    half = " The weights are in float16." if exported.half else ""
    view = {key: plain(value) for key, value in preprocessing.items()}
    return (
        f"Input: RGB, upright; the shorter side to {view['resize']} px ({view['interpolation']}), the centre "
        f"{view['crop']} px, from [0, 1] by mean {view['mean']} and std {view['std']}.{half}"
    )


def unfinished(student: Mapping[str, str]) -> str:
    """A warning when the file is of a checkpoint before the run's end."""
    step, steps = student.get("step"), student.get("steps")
    return "" if step == steps else f" **Its training stopped at step {step} of {steps}.**"


def made_of(exported: Exported) -> dict[str, str]:
    """Dataset, teacher and cache, each by its id."""
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
    """The run's settings, and the command, code and machine that they ran on."""
    record = exported.record
    settings = {key: value for key, value in record["config"].items() if key not in FREE_SETTINGS}
    lines = json.dumps(settings, indent=1)
    return f"`{record['command']}` with\n\n```json\n{lines}\n```\n\n{origin(record.get('provenance', {}))}"


def numbers(evaluations: Sequence[Evaluation]) -> str:
    """Each evaluation's metrics in percent, and where they come from."""
    if not evaluations:
        return "Not evaluated."
    parts = [
        table(("metric", "%"), {key: f"{100 * value:.1f}" for key, value in found.metrics.items()})
        + f"\n\n{origin(found.provenance)}"
        for found in evaluations
        if found.metrics
    ]
    return "\n\n".join(parts)


def origin(provenance: Mapping[str, Any]) -> str:
    """A record's provenance as a list."""
    facts = [f"- {key}: {plain(value)}" for key, value in provenance.items() if value is not None]
    return "\n".join(facts) or f"Where this comes from is {NOT_RECORDED}."


def table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    """A Markdown table of two columns; bars are kept from ending a cell."""
    lines = [head, ("---", "---"), *rows.items()]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def quoted(name: str) -> str:
    """A name as code, unless it says that there is none."""
    return name if name in (NONE, NOT_RECORDED) else f"`{name}`"
