"""What a run logs, passed on to Weights & Biases or MLflow where the user asks for it and has it installed."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, WrongUse, first_line
from pipeline.runtime.progress import Progress

Log = Callable[[dict[str, float], int], None]


@dataclass(kw_only=True)
class Tracker:
    """Passes values on. One that fails says so once, and training goes on without it.

    send: called with values and their step. finish: called once, at the end of this process.
    """

    send: Log
    finish: Callable[[], None]
    failed: bool = False

    def log(self, values: dict[str, float], step: int) -> None:
        self._try(lambda: self.send(values, step))

    def close(self) -> None:
        self._try(self.finish)

    def _try(self, act: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            act()
        except Exception as error:  # these packages raise many types
            self.failed = True
            Progress.write(f"warning: --tracker failed, and training goes on without it: {first_line(error)}")


def open_tracker(name: str, run: Path, settings: Mapping[str, Any]) -> Tracker:
    """Return a tracker of a run; one that is resumed goes on under its name.

    WrongUse if its package is missing, PipelineError if it refuses.
    """
    package = require_tracker(name)
    try:
        return (_wandb if name == "wandb" else _mlflow)(package, run, settings)
    except Exception as error:  # likewise
        raise PipelineError(
            f"--tracker {name}: {first_line(error)}; set it up as {name} says, or leave --tracker out"
        ) from error


def require_tracker(name: str) -> Any:
    """Import a tracker's package. WrongUse if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WrongUse(f"--tracker {name}: the package is not installed; run `pip install {name}`") from error


def _wandb(wandb: Any, run: Path, settings: Mapping[str, Any]) -> Tracker:
    # its run id may not hold a slash
    identity = "-".join(run.resolve().parts[-2:])
    opened = wandb.init(
        project="anchorage", id=identity, name=run.name, dir=str(run), config=dict(settings), resume="allow"
    )
    return Tracker(send=lambda values, step: opened.log(values, step=step), finish=opened.finish)


def _mlflow(mlflow: Any, run: Path, settings: Mapping[str, Any]) -> Tracker:
    mlflow.set_experiment("anchorage")
    name = str(run.resolve())
    known = mlflow.search_runs(filter_string=f"attributes.run_name = '{name}'", output_format="list")
    mlflow.start_run(run_id=known[0].info.run_id if known else None, run_name=None if known else name)
    if not known:
        mlflow.log_params({key: str(value) for key, value in settings.items()})
    return Tracker(send=lambda values, step: mlflow.log_metrics(values, step=step), finish=mlflow.end_run)
