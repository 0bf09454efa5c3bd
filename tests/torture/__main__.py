"""`python -m tests.torture`, part of `make torture`: kill, fail and interrupt the stages; nothing may be lost."""

import os
import random
import re
import sys
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import click

from tests.torture.faults import LIBRARY, Shim, build
from tests.torture.plan import Trial, trials
from tests.torture.record import Record

RESULTS = Path(__file__).with_name("results.json")
SCRATCH = Path("runs/torture")
# one thread each: a pool of threads does not survive a fork
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@click.command()
@click.option("--scratch", type=Path, default=SCRATCH, help="folder for trials and their record")
@click.option("--seconds", type=float, default=0, help="stop after this time; the same command continues")
@click.option("--sample", type=int, default=0, help="run this many trials, drawn at random. 0: all")
@click.option("--only", default="", metavar="REGEX", help="run only trials whose name matches")
@click.option(
    "--processes/--no-processes", default=True, help="also run trials of real processes, minutes each"
)
@click.option("--fresh", is_flag=True, help="discard the record of earlier trials")
@click.option("--results", type=Path, default=RESULTS, help="file for the verdict")
def main(
    scratch: Path, seconds: float, sample: int, only: str, processes: bool, fresh: bool, results: Path
) -> None:
    """Kill, fail and interrupt pack, cache-teacher and distill; then inspect, run again, and compare every byte."""
    began, scratch = time.monotonic(), scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    shim = Shim.loaded() or restart_with_shim(scratch)
    # late: these import everything that a stage needs
    from tests.torture.children import adopt_orphans
    from tests.torture.processes import process_trials
    from tests.torture.stages import STAGES
    from tests.torture.trial import make_materials, tried

    adopt_orphans()
    materials, calls, lengths = make_materials(shim, scratch)
    stages = {stage.name: stage for stage in STAGES}
    plan = [trial for name in stages for trial in trials(name, calls[name], lengths[name])]
    chosen = [*narrowed(plan, only, sample), *narrowed(process_trials() if processes else [], only)]
    record = Record(scratch / "trials.jsonl", fresh=fresh)
    with click.progressbar(
        [trial for trial in chosen if not record.has_passed(trial)], file=sys.stderr
    ) as bar:
        for trial in bar:
            if seconds and time.monotonic() - began > seconds:
                break
            if isinstance(trial, Trial):
                record.add(trial, tried(shim, materials, stages[trial.stage], trial.fault))
            else:
                record.add(trial, trial.run(materials))
    sys.exit(record.verdict(chosen, results))


def restart_with_shim(scratch: Path) -> Shim:
    """Replace this process by the same command with the library of faults preloaded."""
    environment = {LIBRARY: str(build(scratch)), "XDG_CACHE_HOME": str(scratch / "home"), **ONE_THREAD}
    command = [sys.executable, "-m", "tests.torture", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, **environment})


def narrowed(plan: Iterable[Any], only: str, sample: int = 0) -> list[Any]:
    """Return the trials whose name matches, in a fixed random order; in a sample the stages take turns."""
    matching = [trial for trial in plan if re.search(only, trial.name)]
    random.Random(0).shuffle(matching)
    if not sample:
        return matching
    turns = {stage: count() for stage in {trial.stage for trial in matching}}
    return sorted(matching, key=lambda trial: next(turns[trial.stage]))[:sample]


if __name__ == "__main__":
    main()
