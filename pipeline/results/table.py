"""Tables of results, on the terminal and in Markdown, straight from metrics.json files."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich.table import Table
from rich.text import Text

from pipeline.errors import PipelineError
from pipeline.results.plain_text import plain
from pipeline.results.records import Result

TITLES: Mapping[str, str] = {"nn1": "1-NN", "nn20": "20-NN", "linear": "linear", "ca": "CA"}
OTHER_TITLES = {"recall10": "recall@10"}
GAP = "gap closed"
MISSING = "-"
PENDING = "pending"
SMALLEST_GAP = 0.05


@dataclass(frozen=True)
class _Cell:
    mean: float
    text: str


@dataclass(frozen=True)
class _Row:
    name: str
    role: str
    cells: dict[str, _Cell]  # by metric


def terminal_table(results: Sequence[Result], metrics: Mapping[str, str] = MappingProxyType(TITLES)) -> Table:
    """Return a table in percent with one row per system, in the given order; the best of each column is bold.

    Results with the same name and role become mean ± sample standard deviation over their n seeds. Teachers are never
    bold. "gap closed" (see gap_closed, on 1-NN) is a column if exactly one teacher and one untrained system are rows.

    Raises PipelineError when results with the same name and role share a seed or differ in dataset.
    """
    titles, lines = table_cells(results, metrics)
    table = Table("system")
    for title in titles:
        table.add_column(title, justify="right")
    for name, cells in lines:
        # Text, since rich reads a name in brackets as markup
        table.add_row(Text(name), *(Text(text, style="bold" if best else "") for text, best in cells))
    return table


def markdown_table(results: Sequence[Result]) -> str:
    """Return the table of terminal_table as Markdown, ending in a newline, with the metrics that some result has.

    Raises as terminal_table.
    """
    found = {metric for result in results for metric in result.metrics}
    metrics = {metric: title for metric, title in {**TITLES, **OTHER_TITLES}.items() if metric in found}
    titles, lines = table_cells(results, metrics or TITLES)
    rows = [["system", *titles], ["---", *("---:" for _ in titles)]]
    for name, cells in lines:
        rows.append([name.replace("|", r"\|"), *(f"**{text}**" if best else text for text, best in cells)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def gap_closed(student: float, untrained: float, teacher: float) -> float | None:
    """Return (student - untrained) / (teacher - untrained), of accuracies as fractions.

    None if the teacher leads by less than 0.05: the share of a gap within the noise means nothing.
    """
    gap = teacher - untrained
    return (student - untrained) / gap if gap >= SMALLEST_GAP else None


def note_on_datasets(results: Sequence[Result]) -> str:
    """Return a sentence if results of one table are of different images or labels; "" otherwise.

    They are after `pack --relabel`, for example, until `eval` runs again.
    """
    systems: dict[str, dict[str, None]] = {}
    for result in results:
        if dataset := result.provenance.get("dataset"):
            systems.setdefault(str(dataset), {})[result.name] = None
    if len(systems) < 2:
        return ""
    groups = "; ".join(f"{', '.join(names)} ({dataset})" for dataset, names in systems.items())
    return (
        f"Measured on different images or labels, by the dataset's id: {groups}. Run `eval` on all of them."
    )


def provenance_lines(results: Sequence[Result]) -> list[str]:
    """Return Markdown list items: what all systems share, then one item per system. Raises as terminal_table."""
    facts = {}
    for system, members in _systems(results).items():
        keys = dict.fromkeys(key for member in members for key in member.provenance)
        facts[system] = {key: _distinct(member.provenance.get(key) for member in members) for key in keys}
    shared: dict[str, str] = {}
    if len(facts) > 1:
        first, *others = facts.values()
        shared = {
            key: value for key, value in first.items() if all(other.get(key) == value for other in others)
        }
    lines = [f"- all: {_fields(shared)}"] if shared else []
    for (name, _), values in facts.items():
        own = {key: value for key, value in values.items() if key not in shared}
        lines.append(f"- {name}: {_fields(own) if values else 'nothing recorded'}")
    return lines


def _fields(values: Mapping[str, str]) -> str:
    return "; ".join(f"{key} {value}" for key, value in values.items())


def table_cells(
    results: Sequence[Result], metrics: Mapping[str, str] = MappingProxyType(TITLES)
) -> tuple[list[str], list[tuple[str, list[tuple[str, bool]]]]]:
    """Return the column titles, and per row its name and its cells, each (text, whether best of its column).

    metrics: the metrics to show and their titles. Raises as terminal_table.
    """
    rows = [_row(name, role, members, metrics) for (name, role), members in _systems(results).items()]
    _add_gap(rows)
    shown = dict(metrics) | ({GAP: GAP} if any(GAP in row.cells for row in rows) else {})
    best = {metric: _best(rows, metric) for metric in shown}
    lines = [(row.name, [_marked(row, metric, best[metric]) for metric in shown]) for row in rows]
    return [*shown.values()], lines


def _systems(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Group results by name and role, in order of appearance. Raises PipelineError for what must not be averaged."""
    systems: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        systems.setdefault((result.name, result.role), []).append(result)
    for (name, _), members in systems.items():
        seeds = [repr(member.provenance.get("seed")) for member in members]
        if len(set(seeds)) < len(seeds):
            raise PipelineError(
                f"{len(seeds)} results are named {name!r}, with seeds {', '.join(seeds)}; "
                "give each result once, and different systems different names"
            )
        datasets = [member.provenance.get("dataset") for member in members]
        if any(dataset != datasets[0] for dataset in datasets):
            raise PipelineError(
                f"results named {name!r} are of different datasets ({_distinct(datasets)}); "
                "give them different names"
            )
    return systems


def _row(name: str, role: str, members: Sequence[Result], metrics: Mapping[str, str]) -> _Row:
    cells = {}
    for metric in metrics:
        values = [100 * member.metrics[metric] for member in members if metric in member.metrics]
        if values:
            cells[metric] = _cell(values)
    return _Row(name, role, cells)


def _cell(values: Sequence[float]) -> _Cell:
    mean = statistics.fmean(values)
    if len(values) == 1:
        return _Cell(mean, f"{mean:.1f}")
    return _Cell(mean, f"{mean:.1f} ± {statistics.stdev(values):.1f} (n={len(values)})")


def _add_gap(rows: Sequence[_Row]) -> None:
    scored = [row for row in rows if "nn1" in row.cells]
    teachers, untrained = ([row for row in scored if row.role == role] for role in ("teacher", "untrained"))
    if len(teachers) != 1 or len(untrained) != 1:
        return
    ends = untrained[0].cells["nn1"].mean, teachers[0].cells["nn1"].mean
    for row in scored:
        gap = gap_closed(row.cells["nn1"].mean / 100, ends[0] / 100, ends[1] / 100)
        if gap is not None and row.role not in ("teacher", "untrained"):
            row.cells[GAP] = _cell([100 * gap])


def _marked(row: _Row, metric: str, best: float | None) -> tuple[str, bool]:
    cell = row.cells.get(metric)
    if cell is None:
        return MISSING if row.cells else PENDING, False
    return cell.text, row.role != "teacher" and round(cell.mean, 1) == best


def _best(rows: Iterable[_Row], metric: str) -> float | None:
    # rounded as shown: equal text is equally good
    means = [
        round(row.cells[metric].mean, 1) for row in rows if row.role != "teacher" and metric in row.cells
    ]
    return max(means, default=None)


def _distinct(values: Iterable[object]) -> str:
    """The distinct values that are not None, in order of appearance."""
    return ", ".join(dict.fromkeys(plain(value) for value in values if value is not None)) or "none"
