"""Results as tables: metrics.json files in, a terminal or Markdown table out. No number is typed by hand."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich.table import Table
from rich.text import Text

from pipeline.errors import PipelineError
from pipeline.results.records import Result

TITLES = {"nn1": "1-NN", "nn20": "20-NN", "linear": "linear", "ca": "CA"}
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
    cells: dict[str, _Cell]  # by title


def terminal_table(results: Sequence[Result], metrics: Mapping[str, str] = MappingProxyType(TITLES)) -> Table:
    """One row a system, in the order given, in percent; a column's best value that is no teacher's is bold.

    Results of one name and role become mean ± sample standard deviation over their n seeds. "gap closed" (see
    gap_closed, on 1-NN) is shown where exactly one teacher and one untrained system are among the rows.

    Raises:
        PipelineError: results of one name and role have the same seed, or different datasets.
    """
    titles, lines = layout(results, metrics)
    table = Table("system")
    for title in titles:
        table.add_column(title, justify="right")
    for name, cells in lines:
        # Text, since a name in brackets would be read as rich's markup.
        table.add_row(Text(name), *(Text(text, style="bold" if best else "") for text, best in cells))
    return table


def markdown_table(results: Sequence[Result]) -> str:
    """The table of terminal_table in Markdown, ending in a newline; raises as it does."""
    titles, lines = layout(results)
    written = [["system", *titles], ["---", *("---:" for _ in titles)]]
    for name, cells in lines:
        written.append([name.replace("|", r"\|"), *(f"**{text}**" if best else text for text, best in cells)])
    return "".join(f"| {' | '.join(line)} |\n" for line in written)


def gap_closed(student: float, untrained: float, teacher: float) -> float | None:
    """(student - untrained) / (teacher - untrained), of fractions; None where the teacher leads by less than 0.05.

    A share of a gap that is within the noise of either accuracy says nothing.
    """
    gap = teacher - untrained
    return (student - untrained) / gap if gap >= SMALLEST_GAP else None


def provenance_lines(results: Sequence[Result]) -> list[str]:
    """Markdown list items: what is the same for every system, then a line a system; raises as terminal_table."""
    told = {}
    for (name, _), members in _systems(results).items():
        fields = dict.fromkeys(key for member in members for key in member.provenance)
        told[name] = {key: _values(member.provenance.get(key) for member in members) for key in fields}
    shared: dict[str, str] = {}
    if len(told) > 1:
        first, *others = told.values()
        shared = {
            key: value for key, value in first.items() if all(other.get(key) == value for other in others)
        }
    lines = [f"- all: {_fields(shared)}"] if shared else []
    for name, values in told.items():
        own = {key: value for key, value in values.items() if key not in shared}
        lines.append(f"- {name}: {_fields(own) if values else 'nothing recorded'}")
    return lines


def _fields(values: Mapping[str, str]) -> str:
    return "; ".join(f"{key} {value}" for key, value in values.items())


def layout(
    results: Sequence[Result], metrics: Mapping[str, str] = MappingProxyType(TITLES)
) -> tuple[list[str], list[tuple[str, list[tuple[str, bool]]]]]:
    """Titles of the columns, and each row's name and (text, is its column's best) cells; raises as terminal_table.

    metrics: which, and the title of each.
    """
    rows = [_row(name, role, members, metrics) for (name, role), members in _systems(results).items()]
    _add_gap(rows)
    titles = [*metrics.values()] + [GAP] * any(GAP in row.cells for row in rows)
    best = {title: _best(rows, title) for title in titles}
    return titles, [(row.name, [_marked(row, title, best[title]) for title in titles]) for row in rows]


def _systems(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Results by name and role, in order of appearance; what must not be averaged is refused."""
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
                f"results named {name!r} are of different datasets ({_values(datasets)}); "
                "give them different names"
            )
    return systems


def _row(name: str, role: str, members: Sequence[Result], metrics: Mapping[str, str]) -> _Row:
    cells = {}
    for metric, title in metrics.items():
        values = [100 * member.metrics[metric] for member in members if metric in member.metrics]
        if values:
            cells[title] = _cell(values)
    return _Row(name, role, cells)


def _cell(values: Sequence[float]) -> _Cell:
    mean = statistics.fmean(values)
    if len(values) == 1:
        return _Cell(mean, f"{mean:.1f}")
    return _Cell(mean, f"{mean:.1f} ± {statistics.stdev(values):.1f} (n={len(values)})")


def _add_gap(rows: Sequence[_Row]) -> None:
    scored = [row for row in rows if TITLES["nn1"] in row.cells]
    teachers, untrained = ([row for row in scored if row.role == role] for role in ("teacher", "untrained"))
    if len(teachers) != 1 or len(untrained) != 1:
        return
    ends = untrained[0].cells[TITLES["nn1"]].mean, teachers[0].cells[TITLES["nn1"]].mean
    for row in scored:
        gap = gap_closed(row.cells[TITLES["nn1"]].mean / 100, ends[0] / 100, ends[1] / 100)
        if gap is not None and row.role not in ("teacher", "untrained"):
            row.cells[GAP] = _cell([100 * gap])


def _marked(row: _Row, title: str, best: float | None) -> tuple[str, bool]:
    cell = row.cells.get(title)
    if cell is None:
        return MISSING if row.cells else PENDING, False
    return cell.text, row.role != "teacher" and round(cell.mean, 1) == best


def _best(rows: Iterable[_Row], title: str) -> float | None:
    # Rounded as shown: what reads the same is equally good.
    means = [round(row.cells[title].mean, 1) for row in rows if row.role != "teacher" and title in row.cells]
    return max(means, default=None)


def _values(values: Iterable[object]) -> str:
    """The different values in their order, for a person."""
    return ", ".join(dict.fromkeys(_told(values))) or "none"


def _told(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, Mapping):
            yield " ".join(f"{key} {inner}" for key, inner in value.items())
        elif value is not None:
            yield str(value)
