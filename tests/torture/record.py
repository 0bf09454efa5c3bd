"""The record of trials, a line each, so that they can run in slices; and the verdict."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from cache.durable import write_file
from pipeline.runtime.provenance import provenance

FAULTS_SHOWN = 20


class Named(Protocol):
    """A trial as the table shows it."""

    @property
    def stage(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...


class Record:
    """Trials and the problems of each, kept in a file with a line of JSON each."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        if fresh:
            path.unlink(missing_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.problems: dict[str, list[str]] = {}
        for line in map(json.loads, lines):
            self.problems[line["trial"]] = line["problems"]

    def has_passed(self, trial: Named) -> bool:
        """Whether a trial passed before; one that failed runs again."""
        return self.problems.get(trial.name) == []

    def add(self, trial: Named, problems: list[str]) -> None:
        self.problems[trial.name] = problems
        with self.path.open("a") as file:
            file.write(json.dumps({"trial": trial.name, "problems": problems}) + "\n")

    def verdict(self, plan: Sequence[Named], results: Path) -> int:
        """Print and write the results of a plan's trials; return 0 if every trial ran and passed, else 1."""
        done = [trial for trial in plan if trial.name in self.problems]
        bad = [trial for trial in done if self.problems[trial.name]]
        table = Table("stage", "fault", "trials", "went wrong")
        counts = Counter((trial.stage, trial.kind) for trial in done)
        faults = Counter((trial.stage, trial.kind) for trial in bad)
        for key, count in counts.items():
            table.add_row(*key, f"{count:,}", f"{faults[key]:,}")
        table.add_row("all", "", f"{len(done):,}", f"{len(bad):,}")
        console = Console()
        console.print(table)
        for trial in bad[:FAULTS_SHOWN]:
            console.print(trial.name, *self.problems[trial.name], sep="\n  ", markup=False, highlight=False)
        left = len(plan) - len(done)
        if left:
            console.print(
                f"{left:,} of {len(plan):,} trials are left; run the same command again to continue"
            )
        content = {
            "trials": len(done),
            "planned": len(plan),
            "went_wrong": [trial.name for trial in bad],
            "counts": [{"stage": s, "fault": f, "trials": n} for (s, f), n in counts.items()],
            "provenance": provenance(),
        }
        write_file(results, (json.dumps(content, indent=1) + "\n").encode())
        return 1 if bad or left else 0
