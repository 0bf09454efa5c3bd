"""A run folder's record: config.json, metrics.jsonl, TensorBoard, and the progress bar."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cache.durable import write_file
from pipeline.errors import PipelineError


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
