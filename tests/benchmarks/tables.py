"""The kept figures as tables: on the terminal, in docs/benchmarks.md, and the six of README."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.results.records import load_metrics
from tests.benchmarks.figure import RESULTS, Figure, ratio, read_figure

HEAD = ("what", "compared with", "measured", "bar", "")
LATENCIES = "latency-*.json"
TABLE_1 = Path("docs/results/cifar10-table1")
Kept = tuple[Figure, Mapping[str, Any]]


def terminal(figures: Sequence[Figure]) -> Table:
    """Figures on the terminal."""
    shown = Table(*HEAD)
    for figure in figures:
        shown.add_row(*row(figure))
    return shown


def row(figure: Figure) -> tuple[str, ...]:
    return (figure.what, figure.against, figure.measured, figure.bar, figure.verdict)


def benchmarks_table() -> str:
    """All kept figures in Markdown: the table, where most of them come from, and what limits each.

    Latencies have a table of their own.
    """
    files = sorted(set(RESULTS.glob("*.json")) - set(RESULTS.glob(LATENCIES)))
    kept = [read_figure(path) for path in files]
    most = {
        key: most_common([origin[key] for _, origin in kept]) for key in ("machine", "versions", "commit")
    }
    versions = ", ".join(f"{package} {version}" for package, version in most["versions"].items())
    days = sorted({origin["date"][:10] for _, origin in kept})
    measured = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
    return "\n".join(
        [
            *markdown_rows(HEAD, [row(figure) for figure, _ in kept]),
            "",
            f"Measured {measured}, on {most['machine']}, with {versions}, at commit {most['commit']} unless a "
            "note says otherwise (`+`: with uncommitted changes).",
            "",
            "<details><summary>What limits each figure</summary>",
            "",
            *notes(kept, most),
            "",
            "</details>",
        ]
    )


def latency_table() -> str:
    """The kept latencies in Markdown: a row for each network and batch."""
    kept = [read_figure(path) for path in RESULTS.glob(LATENCIES)]
    alone = {
        figure.details["network"]: figure.details["milliseconds"]["PyTorch"]
        for figure, _ in kept
        if figure.details["batch"] == 1
    }
    kept.sort(key=lambda each: (-alone[each[0].details["network"]], each[0].details["batch"]))
    runtimes = ["PyTorch", "ONNX Runtime", "ONNX Runtime, int8"]
    rows = []
    for figure, _ in kept:
        each = figure.details["milliseconds"]
        shown = (f"{each[runtime]:,.0f} ms" if runtime in each else "-" for runtime in runtimes)
        rows.append((figure.details["network"], str(figure.details["batch"]), *shown))
    origins = sorted({f"{origin['machine']}, commit {origin['commit']}" for _, origin in kept})
    return "\n".join(
        [*markdown_rows(("network", "images", *runtimes), rows), "", f"On {'; '.join(origins)}."]
    )


def notes(kept: Sequence[Kept], most: Mapping[str, Any]) -> list[str]:
    """One list item for each limit, with the figures that share it and the provenance that differs from `most`."""
    shared: dict[tuple[str, str], list[str]] = {}
    for figure, origin in kept:
        differs = [f"{key} {origin[key]}" for key in most if origin[key] != most[key]]
        shared.setdefault((figure.bound, "; ".join(differs)), []).append(figure.what)
    return [
        f"- **{', '.join(dict.fromkeys(names))}**: {bound}" + (f" ({differs})" if differs else "")
        for (bound, differs), names in shared.items()
    ]


def headline_table() -> str:
    """The six figures of README in Markdown."""
    distilled, scratch = (seeds_mean(name, "linear") for name in ("1q", "from-scratch"))
    live = kept_figure("live-teacher")
    lines = [
        (
            "linear probe of a ResNet-18 distilled by 1q from a teacher trained with labels, "
            "20,000 images of CIFAR-10, three seeds",
            "as many epochs of SimCLR from scratch",
            f"{distilled:.1f} % against {scratch:.1f} %",
        ),
        (
            "training a ResNet-18 at 224 px from the cache of a ResNet-50",
            "the same with the teacher live",
            f"{ratio(live.seconds, 'live teacher', 'with the cache'):.2f} x its speed",
        ),
        headline(
            "stage-one-resnet50",
            "stage one, a ResNet-50 at 224 px",
            "a loop over ImageFolder and DataLoader that writes one .npy",
        ),
        headline(
            "loader-jpg",
            "loading JPEG images of 256 px with their teacher rows",
            "ImageFolder and DataLoader, without teacher rows",
        ),
        headline(
            "rows-zarr",
            "gathering 256 random rows of a cache of 200,000 x 2048",
            "Zarr's own indexing of the same cache",
        ),
        headline(
            "growth-memory",
            "private memory of `distill` on 1,281,167 images",
            "on 20,000 images",
        ),
    ]
    return "\n".join(markdown_rows(HEAD[:3], lines))


def headline(name: str, what: str, against: str) -> tuple[str, str, str]:
    figure = kept_figure(name)
    return what, against, f"{figure.ratio:.3g} {figure.unit}"


def kept_figure(name: str) -> Figure:
    return read_figure(RESULTS / f"{name}.json")[0]


def seeds_mean(trial: str, metric: str) -> float:
    """A metric in percent, the mean over the seeds of one trial of Table 1 in small."""
    records = sorted(TABLE_1.glob(f"{trial}-seed*.json"))
    return 100 * statistics.fmean(load_metrics(record).metrics[metric] for record in records)


def markdown_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
        *(f"| {' | '.join(line)} |" for line in rows),
    ]


def most_common(values: Sequence[Any]) -> Any:
    """The most frequent of some values that JSON can hold."""
    counted = Counter(json.dumps(value) for value in values)
    return json.loads(counted.most_common(1)[0][0])
