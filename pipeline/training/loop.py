"""THE training loop, of distillation and of pretraining alike: what differs is the objective and the views."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cache.durable import remove_leftovers_within
from cache.errors import InUse, StoreError
from cache.lock import sole_writer
from cache.reader import Split
from pipeline.errors import PipelineError
from pipeline.images.dataset import Dataset
from pipeline.loading.color_jitter import ColorJitter
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.models.optimizer import learning_rate
from pipeline.results.run_record import open_run
from pipeline.runtime.distributed import World, any_rank, explain_lost_rank, leave
from pipeline.runtime.out_of_memory import give_back
from pipeline.runtime.signals import StopRequest
from pipeline.settings.field import as_json, defaults
from pipeline.training.knn_monitor import NearestMonitor
from pipeline.training.live_teacher import LiveTeacher
from pipeline.training.student_run import StudentRun

LOG_EVERY = 10


@dataclass(kw_only=True)
class Training:
    """One pass over the data for one student or more. `fit` is the loop; the rest sets it up.

    runs: a student each; their settings differ in the student and the folder alone.
    rows: integers, the rows to train on. left_out: how many others cannot be, and why. teacher: the cache's split that
    the loader joins, if the objective needs it.
    live: the teacher itself, which then takes the place of that join. made_of: the identities that go into the
    run folders.
    """

    command: str
    dataset: Dataset
    rows: np.ndarray
    runs: list[StudentRun]
    world: World
    device: str
    made_of: dict[str, Any]
    left_out: str = ""
    teacher: Split | None = None
    live: LiveTeacher | None = None
    colour: ColorJitter | None = None

    def __post_init__(self) -> None:
        self.config, self.objective = self.runs[0].config, self.runs[0].objective
        self.loader = self.open_loader()
        self.steps = len(self.loader) * self.config.epochs
        if self.config.epochs and not self.steps:
            raise PipelineError(
                f"{len(self.rows)} rows do not fill one batch of {self.config.batch_size}: "
                "give a smaller --batch-size"
            )
        self.failures: list[PipelineError] = []

    def open_loader(self) -> ImageLoader:
        """The loader of this rank, joined to the cache unless the teacher is live."""
        config, split = self.config, self.dataset.splits["train"]
        share = self.world.share(config.batch_size)
        order = Order(
            rows=self.rows, batch=share, seed=config.seed, rank=self.world.rank, world=self.world.size
        )
        return ImageLoader(
            split.beton,
            order,
            image_size=config.image_size,
            crops=(RandomCrop(scale=config.crop_scale),) * self.objective.views,
            seed=config.seed,
            teacher=self.teacher if self.objective.needs_teacher and not self.live else None,
            colour=self.colour,
            workers=config.workers,
            device=self.device,
        )

    def run(self) -> None:
        """Train into each run folder, from its last checkpoint on, and leave the other ranks.

        Raises InUse if another process writes to one of the folders.
        """
        with contextlib.ExitStack() as held:
            held.callback(leave)
            held.enter_context(explain_lost_rank())
            if self.world.is_first:
                for run in self.runs:
                    self.claim(run, held)
                for run in self.runs:
                    config = run.config
                    open_run(run.folder, self.command, as_json(config), self.made_of, defaults(type(config)))
            self.go_on()

    def claim(self, run: StudentRun, held: contextlib.ExitStack) -> None:
        """Hold a run's folder for this process alone, unless all is done there and it can only be read."""
        try:
            held.enter_context(sole_writer(run.folder))
        except InUse:
            raise
        except StoreError:
            run.resume()
            if not run.is_finished(self.steps):
                raise
        else:
            remove_leftovers_within(run.folder)

    def go_on(self) -> None:
        """Train what is not finished, in run folders that no other process writes to."""
        for run in self.runs:
            run.resume()
            if run.is_finished(self.steps):
                self.say(f"{run.folder} is finished: {self.steps} steps")
        self.runs = [run for run in self.runs if not run.is_finished(self.steps)]
        if not self.runs:
            return
        self.say(self.summary())
        several = len(self.runs) > 1
        with contextlib.ExitStack() as opened:
            for run in self.runs:
                run.begin(self.steps, run.folder.name if several else "")
                opened.callback(run.close)
            give_back()
            self.fit()

    def fit(self) -> None:
        """The loop. The learning rate, the anchors and every random draw are functions of the step.

        A run whose last checkpoint is ahead of another's waits until the batches are new to it again.
        """
        config = self.config
        monitor = NearestMonitor(self.dataset, self.rows, config, self.device) if config.eval_every else None
        step = min(run.step for run in self.runs)
        first, skip = divmod(step, len(self.loader)) if self.steps else (0, 0)
        with StopRequest() as stop:
            for epoch in range(first, config.epochs):
                for batch in self.loader.epoch(epoch, skip):
                    if self.live:
                        batch = self.live.join(batch)
                    rate, runs = self.rate(step), [run for run in self.runs if run.step == step]
                    for run in runs:
                        run.learn(batch, rate)
                    step += 1
                    if step % LOG_EVERY == 0 or step == self.steps:
                        self.each(runs, StudentRun.report)
                    epochs, within = divmod(step, len(self.loader))
                    # before the checkpoint that a run cut short goes on from, or its line would be missing
                    if monitor and self.world.is_first and not within and epochs % config.eval_every == 0:
                        self.each(runs, partial(StudentRun.evaluate, monitor=monitor))
                    if any_rank(stop.wanted, self.world, self.device):
                        self.each(runs, StudentRun.save)
                        raise KeyboardInterrupt
                    if step % config.save_every == 0 or not within:
                        self.each(runs, StudentRun.save)
                skip = 0
        if not config.epochs:
            self.each(self.runs, StudentRun.save)
        if self.failures:
            raise PipelineError("; ".join(map(str, self.failures)))

    def each(self, runs: list[StudentRun], act: Callable[[StudentRun], None]) -> None:
        """Do something with each run. One that goes wrong leaves the pass, and the others go on to their end."""
        for run in [run for run in runs if run in self.runs]:
            try:
                act(run)
            except PipelineError as error:
                self.failures.append(error)
                self.runs.remove(run)
                if not self.runs:
                    raise PipelineError("; ".join(map(str, self.failures))) from error
                self.say(f"{run.folder} goes no further: {error}")

    def rate(self, step: int) -> float:
        """The learning rate of the step to come."""
        config = self.config
        warmup = round(config.warmup * len(self.loader))
        return learning_rate(step, peak=config.lr, steps=self.steps, warmup=warmup, schedule=config.schedule)

    def summary(self) -> str:
        """What is about to run, in a sentence."""
        config, share = self.config, self.world.share(self.config.batch_size)
        ranks = f" ({share} on each of {self.world.size} ranks)" if self.world.size > 1 else ""
        students = " and ".join(run.config.student for run in self.runs)
        steps = [run.step for run in self.runs]
        start = f", from step {' and '.join(map(str, steps))}" if any(steps) else ""
        live = f", with {self.live.name} live on each crop" if self.live else ""
        left_out = f" (left out: {self.left_out})" if self.left_out else ""
        return (
            f"{self.command}: {students} at {config.image_size} px on {len(self.rows):,} rows{left_out}, "
            f"{self.objective.describe()}{live}; {config.epochs} epochs of {len(self.loader)} batches of "
            f"{config.batch_size}{ranks}, {config.amp_dtype} on {self.device}{start}"
        )

    def say(self, sentence: str) -> None:
        if self.world.is_first:
            print(sentence, flush=True)
