"""The tables of a page: main results, further metrics, and the comparison with the paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.report import paper
from pipeline.report.systems import System, teacher_store
from pipeline.results.records import Result
from pipeline.results.table import MISSING, TITLES, markdown_table, note_on_datasets, table_cells

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
# The measured metrics to compare with a published one, and what to add to its title: the paper's protocol (random
# crops, best layer) takes precedence over a similar one.
MEASURED = {
    "linear": {"linear_augmented": "", "linear": ", on stored crops"},
    "linear@places": {"linear_augmented_best@places": "", "linear_best@places": ", on centre crops"},
    "voc": {"voc@VOC2007": ""},
    "voc_detection": {"voc_detection@VOC2007": ""},
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Column titles, and per row its name and its cells, each (text, whether best of its column)."""

    titles: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]


@dataclass(frozen=True, kw_only=True)
class Results:
    """The main table, the same as Markdown, a table of all other metrics, and the systems not evaluated yet.

    note: see `note_on_datasets`.
    """

    table: Table
    markdown: str
    further: Table | None
    note: str
    unevaluated: list[str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published and a measured value of one metric, in percent; where: the images that it was measured on."""

    name: str
    metric: str
    published: float
    measured: str
    difference: float
    where: str

    @property
    def is_reproduction(self) -> bool:
        """Whether it was measured on the paper's dataset."""
        return self.where == IMAGENET


def results(systems: Sequence[System]) -> Results:
    """Collect the results of all systems, with mean and standard deviation over seeds.

    Raises PipelineError when no system is evaluated, or results cannot share a table.
    """
    evaluated = results_of(systems)
    if not evaluated:
        raise PipelineError("no system here is evaluated yet: run `python cli.py eval` on them")
    others = dict.fromkeys(
        metric for result in evaluated for metric in result.metrics if metric not in TITLES
    )
    titles, rows = table_cells(evaluated)
    return Results(
        table=Table(titles=titles, rows=rows),
        markdown=markdown_table(evaluated),
        further=_further(evaluated, list(others)) if others else None,
        note=note_on_datasets(evaluated),
        unevaluated=[system.title for system in systems if system.result is None],
    )


def results_of(systems: Sequence[System]) -> list[Result]:
    """Return the results of the evaluated systems, in order."""
    return [system.result for system in systems if system.result is not None]


def compare_with_paper(systems: Sequence[System]) -> list[Comparison]:
    """Compare the metrics of every system whose teacher, student and objective are a row of the paper.

    Raises PipelineError if there is none.
    """
    comparisons = []
    for name, role in dict.fromkeys((system.name, system.role) for system in systems):
        members = [
            system for system in systems if (system.name, system.role) == (name, role) and system.result
        ]
        row = row_of(members[0], systems) if members else None
        if row is not None:
            comparisons += _compare(row, name, members)
    if not comparisons:
        raise PipelineError(
            "no system here has the teacher, student and objective of a row of the paper; the appendix has its tables"
        )
    return comparisons


def row_of(system: System, systems: Sequence[System]) -> paper.PaperRow | None:
    """Return the paper's row with the same teacher, student and objective; for a cache, its teacher's row."""
    if system.role == "teacher" and system.store:
        teacher = system.store.origin.get("name")
        rows = (row for row in paper.ROWS if (row.teacher, row.objective) == (teacher, paper.TEACHER))
        return next(rows, None)
    if system.role != "student":
        return None
    student, objective = (str(system.settings.get(key, "")) for key in ("student", "objective"))
    return paper.paper_row(teacher_name(system, systems), student, objective)


def teacher_name(run: System, systems: Sequence[System]) -> str:
    """Return the name of a run's teacher, or "" if it is not recorded."""
    store = teacher_store(run, systems)
    recorded = {**(store.origin if store else {}), **run.record.get("made_of", {}).get("teacher", {})}
    return str(recorded.get("name", ""))


def describe_images(system: System) -> str:
    """Describe the images that a system was trained and evaluated on."""
    images = system.images
    if not images:
        return "not recorded"
    if images["rows"] == IMAGENET_ROWS:
        return IMAGENET
    return f"{images['rows']:,} images, {len(images['classes']):,} classes"


def _compare(row: paper.PaperRow, name: str, members: Sequence[System]) -> list[Comparison]:
    comparisons, results = [], results_of(members)
    for metric, published in row.metrics.items():
        candidates = MEASURED.get(metric, {metric: ""})
        own = next((candidate for candidate in candidates if candidate in results[0].metrics), None)
        if own is None:
            continue
        _, rows = table_cells(results, {own: own})
        measured, _ = rows[0][1][0]
        comparisons.append(
            Comparison(
                name=name,
                metric=PAPER_TITLES[metric] + candidates[own],
                published=published,
                measured=measured,
                difference=float(measured.split()[0]) - published,
                where=describe_images(members[0]),
            )
        )
    return comparisons


def _further(results: Sequence[Result], metrics: Sequence[str]) -> Table:
    """Return the table of further metrics, without bold, since the highest standard deviation is not the best."""
    titles, rows = table_cells(results, {metric: metric.replace("_", " ") for metric in metrics})
    plain = [(name, [(text, False) for text, _ in cells]) for name, cells in rows]
    return Table(titles=titles, rows=[row for row in plain if any(text != MISSING for text, _ in row[1])])
