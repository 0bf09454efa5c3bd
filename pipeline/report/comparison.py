"""The measured numbers as tables of a page: side by side, every further metric, and beside the paper's."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.report import paper
from pipeline.report.systems import System, teacher_store
from pipeline.results.records import Result
from pipeline.results.table import MISSING, TITLES, layout, markdown_table

IMAGENET, IMAGENET_ROWS = "ImageNet-1k", 1_281_167
PAPER_TITLES = {
    "linear": "linear",
    "nn1": "1-NN",
    "ca": "CA",
    "few1pct": "1 % of labels",
    "few10pct": "10 % of labels",
    "linear@places": "Places, linear",
    "voc": "VOC classification, mAP",
    "voc_detection": "VOC detection, mAP",
}
# What was measured as the paper did, on random crops and by the best layer, comes before what is only like it.
MEASURED = {
    "linear": {"linear_augmented": "", "linear": ", on stored crops"},
    "linear@places": {"linear_augmented_best@places": "", "linear_best@places": ", on centre crops"},
    "voc": {"voc@VOC2007": ""},
    "voc_detection": {"voc_detection@VOC2007": ""},
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Titles of the columns, and each row's name and (text, is the best of its column) cells."""

    titles: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]


@dataclass(frozen=True, kw_only=True)
class Results:
    """The main table, also as Markdown, the table of all other metrics, and the systems not evaluated yet."""

    table: Table
    markdown: str
    further: Table | None
    unevaluated: list[str]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """One number of the paper and what was measured for it, both in percent; where says on what images."""

    name: str
    metric: str
    published: float
    measured: str
    difference: float
    where: str

    @property
    def repeats(self) -> bool:
        """Whether it was measured on the paper's own images."""
        return self.where == IMAGENET


def results(systems: Sequence[System]) -> Results:
    """Every system's accuracy, mean and spread over its seeds.

    Raises PipelineError when no system was evaluated, or two results cannot stand in one table.
    """
    found = evaluated(systems)
    if not found:
        raise PipelineError("no system here was evaluated yet: run `python cli.py eval` on them")
    others = dict.fromkeys(metric for result in found for metric in result.metrics if metric not in TITLES)
    titles, rows = layout(found)
    return Results(
        table=Table(titles=titles, rows=rows),
        markdown=markdown_table(found),
        further=_further(found, list(others)) if others else None,
        unevaluated=[system.title for system in systems if system.result is None],
    )


def evaluated(systems: Sequence[System]) -> list[Result]:
    """The results that there are, in order."""
    return [system.result for system in systems if system.result is not None]


def beside_paper(systems: Sequence[System]) -> list[Beside]:
    """Each measured number whose teacher, student and objective are a row of the paper's.

    Raises PipelineError where there is none.
    """
    found = []
    for name in dict.fromkeys(system.name for system in systems):
        members = [system for system in systems if system.name == name and system.result]
        row = row_of(members[0], systems) if members else None
        if row is not None:
            found += _beside(row, name, members)
    if not found:
        raise PipelineError(
            "no system here has a teacher, a student and an objective that are a row of the paper's; "
            "its tables stand below"
        )
    return found


def row_of(system: System, systems: Sequence[System]) -> paper.PaperRow | None:
    """The paper's row of the same teacher, student and objective; a teacher's own for a cache."""
    if system.role == "teacher" and system.store:
        named = system.store.origin.get("name")
        return next(
            (row for row in paper.ROWS if (row.teacher, row.objective) == (named, paper.TEACHER)), None
        )
    if system.role != "student":
        return None
    student, objective = (str(system.settings.get(key, "")) for key in ("student", "objective"))
    return paper.paper_row(teacher_name(system, systems), student, objective)


def teacher_name(run: System, systems: Sequence[System]) -> str:
    """The name of the teacher that a run learnt from, "" where it was not recorded."""
    store = teacher_store(run, systems)
    told = {**(store.origin if store else {}), **run.record.get("made_of", {}).get("teacher", {})}
    return str(told.get("name", ""))


def where(system: System) -> str:
    """What images a system was measured on, in words."""
    made_of = system.images
    if not made_of:
        return "not recorded"
    if made_of["rows"] == IMAGENET_ROWS:
        return IMAGENET
    return f"{made_of['rows']:,} images, {len(made_of['classes']):,} classes"


def _beside(row: paper.PaperRow, name: str, members: Sequence[System]) -> list[Beside]:
    found, measured = [], evaluated(members)
    for metric, published in row.metrics.items():
        wanted = MEASURED.get(metric, {metric: ""})
        own = next((own for own in wanted if own in measured[0].metrics), None)
        if own is None:
            continue
        cell = layout(measured, {own: own})[1][0][1][0][0]
        mean = float(cell.split()[0])
        found.append(
            Beside(
                name=name,
                metric=PAPER_TITLES[metric] + wanted[own],
                published=published,
                measured=cell,
                difference=mean - published,
                where=where(members[0]),
            )
        )
    return found


def _further(found: Sequence[Result], metrics: Sequence[str]) -> Table:
    """Nothing is bold here: the highest spread is not the best."""
    titles, rows = layout(found, {metric: metric.replace("_", " ") for metric in metrics})
    plain = [(name, [(text, False) for text, _ in cells]) for name, cells in rows]
    return Table(titles=titles, rows=[row for row in plain if any(text != MISSING for text, _ in row[1])])
