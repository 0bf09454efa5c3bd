"""The log of a run: metrics.jsonl, TensorBoard and the progress bar."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from cache.durable import write_file
from pipeline.errors import PipelineError
from pipeline.runtime.progress import Progress
from pipeline.training.recorded_run import TENSORBOARD
from pipeline.training.tracker import Tracker


class RunLog:
    """The log of a run: metrics.jsonl, TensorBoard and the progress bar. Only the main process has one.

    step: number of steps done; lines of later steps, from an interrupted run, are dropped and will be written again.
    name: label of the progress bar, where there are several. tracker: gets the same values.
    """

    def __init__(
        self,
        run: Path,
        *,
        step: int,
        steps: int,
        batch_size: int,
        name: str = "",
        tracker: Tracker | None = None,
    ) -> None:
        self.tracker = tracker
        self.path, self.batch_size = run / "metrics.jsonl", batch_size
        self.drop_lines_after(step)
        with self.explain_os_errors():
            self.board = SummaryWriter(str(run / TENSORBOARD), purge_step=step + 1)
        self.bar = Progress(total=steps, initial=step, desc=name or None, unit="step", smoothing=0.05)
        self.since, self.at_step = time.monotonic(), step

    def drop_lines_after(self, step: int) -> None:
        """Drop the lines of steps after `step`, and a half-written last line."""
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
        """Write values to metrics.jsonl, as one line, and to TensorBoard; `step` counts the steps done."""
        with self.explain_os_errors():
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if self.tracker:
            self.tracker.log(values, step)

    def progress(self, step: int, **values: float) -> None:
        """Move the progress bar, and log the values and the images/s since the last call."""
        now = time.monotonic()
        rate = (step - self.at_step) * self.batch_size / max(now - self.since, 1e-9)
        self.bar.move_to(step)
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", images_per_s=f"{rate:.0f}")
        self.write(step, **values, images_per_s=round(rate, 1))
        self.since, self.at_step = now, step

    def print(self, line: str) -> None:
        """Print a line above the progress bar."""
        self.bar.write(line)

    def close(self) -> None:
        self.bar.close()
        if self.tracker:
            self.tracker.close()
        with self.explain_os_errors():
            self.board.close()

    @contextlib.contextmanager
    def explain_os_errors(self) -> Iterator[None]:
        """Turn a file that cannot be written, as on a full disk, into a PipelineError."""
        try:
            yield
        except OSError as error:
            raise PipelineError(
                f"cannot write the logs in {self.path.parent}: {error.strerror or error}; fix that and run the "
                "same command again: it goes on from the last checkpoint"
            ) from error
