"""A sweep: every trial of a recipe trained and evaluated in processes of its own, what is done skipped.

Several sweeps of one recipe may run at once, one a GPU for instance: each takes the trials that no other holds.
"""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cache.durable import write_file
from cache.lock import held
from pipeline.errors import PipelineError, WrongUse
from pipeline.results.records import metrics_of
from pipeline.settings.commands import SweepConfig
from pipeline.sweeps.recipe import SweepRecipe, Trial, flags, read_recipe

CLI = Path(__file__).resolve().parents[2] / "cli.py"
INTERRUPTED = 130


class TrialFailed(PipelineError):
    """A process of a trial ended badly; the sweep goes on with the next."""


def sweep(config: SweepConfig) -> None:
    """Run what is not done yet, and go on when a trial fails.

    Raises WrongUse for a bad recipe, PipelineError at the end when trials failed, naming them and their logs.
    """
    recipe = read_recipe(config.recipe)
    trials = [
        trial for trial in recipe.trials if not config.only or any(part in trial.name for part in config.only)
    ]
    if not trials:
        raise WrongUse(f"no trial of {config.recipe} has {' or '.join(config.only)} in its name")
    recipe.runs.mkdir(parents=True, exist_ok=True)
    failed, elsewhere = [], []
    for store in recipe.references:
        reference(recipe, store)
    with tqdm(trials, unit="trial", dynamic_ncols=True) as bar:
        for trial in bar:
            bar.set_postfix_str(trial.name)
            try:
                elsewhere += [] if attempt(recipe, trial, config.launcher) else [trial.name]
            except TrialFailed as error:
                bar.write(f"failed: {error}")
                failed.append(trial.name)
    if elsewhere:
        print(f"another sweep is at work on {', '.join(elsewhere)}")
    if failed:
        raise PipelineError(
            f"{len(failed)} of {len(trials)} trials failed ({', '.join(failed)}): see their .log files in "
            f"{recipe.runs}; the same command tries these again"
        )


def attempt(recipe: SweepRecipe, trial: Trial, launcher: str) -> bool:
    """Train and evaluate one trial unless that is done; False when another process holds it."""
    record = recipe.results / f"{trial.name}.json"
    if is_done(record, trial, recipe):
        return True
    with held(recipe.runs / f"{trial.name}.lock") as mine:
        if mine and not is_done(record, trial, recipe):
            run = recipe.runs / trial.name
            stores = [recipe.cache] if trial.command == "distill" else []
            program = shlex.split(launcher) or [sys.executable]
            log = recipe.runs / f"{trial.name}.log"
            call(
                [*program, str(CLI), trial.command, recipe.dataset, *stores, run, *flags(trial.settings)], log
            )
            call([*evaluation(recipe), run], log)
            keep(record, run, row=trial.row, settings=trial.settings, seconds=round(training_seconds(run)))
    return mine


def reference(recipe: SweepRecipe, store: Path) -> None:
    """Evaluate a store that stands in the table beside the runs."""
    record = recipe.results / f"{store.stem}.json"
    if not record.exists():
        call([*evaluation(recipe), store], recipe.runs / f"{store.stem}.log")
        keep(record, store)


def evaluation(recipe: SweepRecipe) -> list[object]:
    """The command that evaluates what is appended to it."""
    protocol = ",".join(recipe.protocol)
    return [sys.executable, str(CLI), "eval", "--dataset", recipe.dataset, "--protocol", protocol]


def is_done(record: Path, trial: Trial, recipe: SweepRecipe) -> bool:
    """Whether the trial's metrics are there. PipelineError when they are of a run with other settings."""
    if not record.exists():
        return False
    settings = json.loads(record.read_text()).get("settings")
    if settings != json.loads(json.dumps(trial.settings)):
        raise PipelineError(
            f"{record} is of a run with other settings than the recipe's ({settings}): name another runs "
            "folder in the recipe, or remove that file and its run"
        )
    return True


def keep(record: Path, target: Path, **more: Any) -> None:
    """The metrics that `eval` wrote for a run or a store, with what the sweep knows, as a file of the results."""
    metrics = json.loads(metrics_of(target).read_text())
    name = {"name": more.pop("row")} if "row" in more else {}
    write_file(record, (json.dumps({**metrics, **name, **more}, indent=1) + "\n").encode())


def training_seconds(run: Path) -> float:
    """How long a run's steps took in all the processes that it had; what a killed one lost is not in it."""
    record = run / "metrics.jsonl"
    lines = map(json.loads, record.read_text().splitlines() if record.exists() else [])
    timed = [(line["step"], line["images_per_s"]) for line in lines if "images_per_s" in line]
    batch = json.loads((run / "config.json").read_text())["config"]["batch_size"]
    before = [0, *(step for step, _ in timed)]
    return float(sum((step - last) * batch / rate for (step, rate), last in zip(timed, before, strict=False)))


def call(command: list[object], log: Path) -> None:
    """Run a process to its end, its output into `log`; Ctrl-C and SIGTERM reach it as one SIGTERM.

    Raises TrialFailed with the last line that it said, KeyboardInterrupt when it was interrupted.
    """
    with log.open("ab") as file:
        # Its own session, or a Ctrl-C would reach it twice: from the terminal and from here.
        process = subprocess.Popen(
            [str(part) for part in command], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        with passed_on(process):
            code = process.wait()
    if code in (INTERRUPTED, -signal.SIGTERM):
        raise KeyboardInterrupt
    if code:
        said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise TrialFailed(f"{log.stem}: exit code {code}; {said[-1]} ({log})")


@contextlib.contextmanager
def passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """While open, SIGINT and SIGTERM go to the process instead."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    previous = {kind: signal.signal(kind, lambda number, frame: process.terminate()) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
