"""`sweep`: train and evaluate every trial of a recipe, each in processes of its own; finished trials are skipped.

Several sweeps of one recipe can run at once, for example one per GPU: each takes trials that no other holds.
"""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from cache.errors import StoreError
from cache.lock import held
from cache.user_folder import as_typed
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.images.labelled import label_problem
from pipeline.remote.download import local_copy
from pipeline.results.metrics_file import is_of_store, recorded_path
from pipeline.results.records import load_metrics
from pipeline.runtime.outputs import require_writable_folder
from pipeline.runtime.progress import Progress
from pipeline.settings.commands import SweepConfig
from pipeline.sweeps.recipe import SweepRecipe, Trial, flags, read_recipe
from pipeline.sweeps.record import is_done, write_json, write_record

CLI = Path(__file__).resolve().parents[2] / "cli.py"
INTERRUPTED = 130


class TrialFailed(PipelineError):
    """A process of a trial failed; the sweep continues with the next trial."""


def sweep(config: SweepConfig) -> None:
    """Run the `sweep` command: all unfinished trials, also after one fails.

    Raises WrongUse for a bad recipe, and PipelineError at the end if trials failed, naming them and their logs.
    """
    recipe, launcher = read_recipe(config.recipe), words(config.launcher)
    trials = [
        trial for trial in recipe.trials if not config.only or any(part in trial.name for part in config.only)
    ]
    if not trials:
        raise WrongUse(f"no trial of {config.recipe} has {' or '.join(config.only)} in its name")
    if any(not recipe.result_path(trial.name).exists() for trial in trials):
        if problem := label_problem(open_dataset(local_copy(as_typed(recipe.dataset)))):
            raise PipelineError(f"{problem}; a sweep evaluates its runs, which needs labels in train and val")
        for folder in (recipe.runs, recipe.results):
            require_writable_folder(folder)
    recipe.runs.mkdir(parents=True, exist_ok=True)
    failed, elsewhere = [], []
    for store in recipe.references:
        evaluate_reference(recipe, store)
    with Progress(trials, unit="trial") as bar:
        for trial in bar:
            bar.set_postfix_str(trial.name)
            try:
                if not run_trial(recipe, trial, launcher):
                    elsewhere.append(trial.name)
            except TrialFailed as error:
                bar.write(f"failed: {error}")
                failed.append(trial.name)
    if elsewhere:
        print(f"another sweep is running {', '.join(elsewhere)}")
    if failed:
        raise PipelineError(
            f"{len(failed)} of {len(trials)} trials failed ({', '.join(failed)}): see their .log files in "
            f"{recipe.runs}; the same command retries them"
        )


def words(launcher: str | None) -> list[str]:
    """Return the words of a command line. Raises WrongUse for an open quotation."""
    try:
        return shlex.split(launcher or "")
    except ValueError as error:
        raise WrongUse(f"--launcher {launcher}: {error}") from error


def run_trial(recipe: SweepRecipe, trial: Trial, launcher: Sequence[str] = ()) -> bool:
    """Train and evaluate a trial unless it is done. Returns False if another process holds it."""
    if is_done(recipe, trial):
        return True
    with held(recipe.runs / f"{trial.name}.lock") as mine:
        if mine and not is_done(recipe, trial):
            run = recipe.runs / trial.name
            stores = [trial.cache or recipe.cache] if trial.command == "distill" else []
            program = launcher or [sys.executable]
            log = recipe.runs / f"{trial.name}.log"
            call(
                [*program, str(CLI), trial.command, recipe.dataset, *stores, run, *flags(trial.settings)], log
            )
            call([*eval_command(recipe), run], log)
            write_record(recipe, trial, run, round(training_seconds(run)))
    return mine


def evaluate_reference(recipe: SweepRecipe, store: Path) -> None:
    """Evaluate a reference store unless that is done."""
    record = recipe.reference_path(store)
    if not is_recorded(record, store):
        call([*eval_command(recipe), store], recipe.runs / f"{record.stem}.log")
        write_json(record, json.loads(recorded_path(store).read_text(encoding="utf-8")))


def is_recorded(record: Path, store: Path) -> bool:
    """Whether the metrics exist and are of this store; those of a store that cannot be opened now count as its own."""
    if not record.exists():
        return False
    provenance = load_metrics(record).provenance
    try:
        return not provenance.get("store") or is_of_store(provenance, store)
    except StoreError:
        return True


def eval_command(recipe: SweepRecipe) -> list[object]:
    """Return the `eval` command line, to which the target is appended."""
    protocol = ",".join(recipe.protocol)
    return [sys.executable, str(CLI), "eval", "--dataset", recipe.dataset, "--protocol", protocol]


def training_seconds(run: Path) -> float:
    """Return the duration of a run's steps over all its processes, without steps that a killed one lost."""
    record = run / "metrics.jsonl"
    lines = map(json.loads, record.read_text(encoding="utf-8").splitlines() if record.exists() else [])
    timed = [(line["step"], line["images_per_s"]) for line in lines if "images_per_s" in line]
    batch = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]["batch_size"]
    before = [0, *(step for step, _ in timed)]
    return float(sum((step - last) * batch / rate for (step, rate), last in zip(timed, before, strict=False)))


def call(command: list[object], log: Path) -> None:
    """Run a process to its end and append its output to `log`. Ctrl-C and SIGTERM reach it as one SIGTERM.

    Raises TrialFailed with the last line of output, KeyboardInterrupt if the process was interrupted.
    """
    with log.open("ab") as file:
        # a session of its own, or Ctrl-C would reach it twice: from the terminal and from here
        process = subprocess.Popen(
            [str(part) for part in command], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        with forwarded_signals(process) as interrupted:
            code = process.wait()
    # whatever the code: torchrun ends with 1 after a signal, as after an error
    if interrupted or code in (INTERRUPTED, -signal.SIGTERM):
        raise KeyboardInterrupt
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        raise TrialFailed(f"{log.stem}: exit code {code}; {lines[-1]} ({log})")


@contextlib.contextmanager
def forwarded_signals(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Forward SIGINT and SIGTERM to the process, as SIGTERM; yields the list of those that came."""
    kinds, came = (signal.SIGINT, signal.SIGTERM), list[int]()

    def forward(number: int, frame: FrameType | None) -> None:
        came.append(number)
        process.terminate()

    previous = {kind: signal.signal(kind, forward) for kind in kinds}
    try:
        yield came
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
