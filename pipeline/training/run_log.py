"""A run folder's record: config.json, metrics.jsonl, TensorBoard, and the progress bar."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cache.durable import write_file
from cache.layout import identity_difference
from pipeline.errors import PipelineError
from pipeline.runtime.provenance import provenance

FORMAT = 1
# Settings that change neither weights nor their order, so that a run may go on with other values.
FREE_SETTINGS = (
    *("workers", "eval_every", "save_every", "device", "inexact"),
    *("dataset", "cache", "run", "teacher", "weights"),  # places: what is there is known by its identity
)


def open_run(
    run: Path,
    command: str,
    config: dict[str, Any],
    made_of: dict[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Create the run folder with its whole config, or check that the one there is of the same run.

    made_of: identities of what the run reads. defaults: what a setting counts as that is younger than the run.
    Raises PipelineError naming every difference.
    """
    wanted = {"format": FORMAT, "command": command, "config": config, "made_of": made_of}
    path = run / "config.json"
    if not path.exists():
        text = json.dumps({**wanted, "provenance": provenance()}, indent=1)
        write_file(path, (text + "\n").encode())
        return
    found = read_config(run)
    found["config"] = {**defaults, **found["config"]}
    differences = identity_difference(fixed(wanted), fixed(found))
    if differences:
        raise PipelineError(
            f"{run} holds another run ({'; '.join(differences)}): name a new folder, or repeat its settings"
        )


def read_config(run: Path) -> dict[str, Any]:
    """A run folder's config.json. PipelineError if there is none, or it is not a run's of this format."""
    try:
        found = json.loads((run / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise PipelineError(f"{run} is not a run folder: its config.json cannot be read ({error})") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise PipelineError(f"{run}/config.json has format {version!r}, expected {FORMAT}: name another run")
    parts = {name: found.get(name) for name in ("config", "made_of")}
    lacking = [name for name, part in parts.items() if not isinstance(part, dict)]
    if lacking or not isinstance(found.get("command"), str):
        raise PipelineError(
            f"{run}/config.json is not as a run wrote it (no {', '.join(lacking) or 'command'}): name another run"
        )
    return dict(found)


def fixed(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's record that must not change when it goes on, as JSON gives it back."""
    config = {name: value for name, value in record["config"].items() if name not in FREE_SETTINGS}
    made_of = {
        name: value for name, value in record["made_of"].items() if name != "teacher"
    }  # the cache's id tells it
    plain: dict[str, Any] = json.loads(json.dumps({**record, "config": config, "made_of": made_of}))
    return {name: plain[name] for name in ("format", "command", "config", "made_of")}


class RunLog:
    """Writes what happens at each step; only the first rank has one.

    step: the first step to come; later lines of an interrupted run are dropped, since they come again.
    name: what stands before the bar, where there are several.
    """

    def __init__(self, run: Path, *, step: int, steps: int, batch_size: int, name: str = "") -> None:
        self.path, self.batch_size = run / "metrics.jsonl", batch_size
        self.keep_until(step)
        with self.in_words():
            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step)
        self.bar = tqdm(
            total=steps, initial=step, desc=name or None, unit="step", dynamic_ncols=True, smoothing=0.05
        )
        self.since, self.at_step = time.monotonic(), step

    def keep_until(self, step: int) -> None:
        """Drop the lines from `step` on, and a half-written last one."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:
                break
        write_file(self.path, "".join(kept).encode())

    def write(self, step: int, **values: float) -> None:
        """One line of metrics.jsonl, the same into TensorBoard; `step` counts the steps done."""
        with self.in_words():
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def progress(self, step: int, **values: float) -> None:
        """Move the bar, with images/s since the last call; the same into metrics.jsonl."""
        now = time.monotonic()
        rate = (step - self.at_step) * self.batch_size / max(now - self.since, 1e-9)
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", images_per_s=f"{rate:.0f}")
        self.write(step, **values, images_per_s=round(rate, 1))
        self.since, self.at_step = now, step

    def say(self, sentence: str) -> None:
        """A line above the bar."""
        self.bar.write(sentence)

    def close(self) -> None:
        self.bar.close()
        with self.in_words():
            self.board.close()

    @contextlib.contextmanager
    def in_words(self) -> Iterator[None]:
        """While open, a file that cannot be written, as on a full disk, is a PipelineError."""
        try:
            yield
        except OSError as error:
            raise PipelineError(
                f"cannot write the logs in {self.path.parent}: {error.strerror or error}; mend that and run the same "
                "command again: it goes on from the last checkpoint"
            ) from error
