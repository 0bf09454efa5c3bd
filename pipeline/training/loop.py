"""The training loop of distillation and pretraining, which differ in the objective and the number of views."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cache.reader import Split
from pipeline.errors import PipelineError
from pipeline.images.dataset import Dataset
from pipeline.loading.batch import Batch
from pipeline.loading.color_jitter import ColorJitter
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.loading.replay import Replay
from pipeline.models.optimizer import learning_rate
from pipeline.results.run_record import open_run
from pipeline.runtime.device import gpu_record
from pipeline.runtime.distributed import any_rank, explain_lost_rank, is_main_process, shutdown_distributed
from pipeline.runtime.out_of_memory import release_free_memory
from pipeline.runtime.precision import explain_nondeterminism
from pipeline.runtime.signals import StopRequest
from pipeline.settings.field import as_json, defaults
from pipeline.settings.training import DistillConfig, PretrainConfig
from pipeline.training.live_teacher import LiveTeacher
from pipeline.training.monitor import Monitor, TeacherSplits
from pipeline.training.recorded_run import is_trained, lock_run
from pipeline.training.start_checks import require_monitored, require_tools, require_trainable_head
from pipeline.training.student_run import StudentRun

LOG_EVERY = 10


@dataclass(kw_only=True)
class Training:
    """The training of one or more students in one pass over the data.

    runs: one per student; their settings differ in student and run folder only. rows: integers, the training rows.
    excluded: how many other rows there are, and why. teacher: the cache's split, for objectives that need a teacher;
    replay: which of its views are shown; monitored: the teacher's embeddings that --eval-every compares with; live: the
    teacher itself, in the cache's place. made_of: the identities of the inputs, recorded in the run folders.
    """

    command: str
    dataset: Dataset
    rows: np.ndarray
    runs: list[StudentRun]
    made_of: dict[str, Any]
    excluded: str = ""
    teacher: Split | None = None
    monitored: TeacherSplits | None = None
    replay: Replay | None = None
    live: LiveTeacher | None = None
    color_jitter: ColorJitter | None = None

    def __post_init__(self) -> None:
        first = self.runs[0]
        self.config, self.objective = first.config, first.objective
        self.world, self.device = first.world, first.device
        self.loader = self.open_loader()
        self.steps = len(self.loader) * self.config.epochs
        if self.config.epochs and not self.steps:
            raise PipelineError(
                f"{len(self.rows)} rows do not fill one batch of {self.config.batch_size}: "
                "give a smaller --batch-size"
            )
        self.check_needs()
        self.failures: list[PipelineError] = []

    def check_needs(self) -> None:
        """Raise PipelineError or WrongUse for what would stop a run only after it has begun."""
        if not self.steps:
            return
        if self.config.eval_every:
            require_monitored(self.dataset, self.rows, has_teacher=self.monitored is not None)
        require_tools(self.config, self.device)
        for run in self.runs:
            require_trainable_head(run)

    def fit(self) -> None:
        """Train every run to its last step.

        The learning rate, the anchors and every random draw are functions of the step. A run whose checkpoint is ahead
        of another's waits for its step.
        """
        step = min(run.step for run in self.runs)
        monitor = self.open_monitor()
        with StopRequest() as stop:
            # of no steps, or interrupted between its last checkpoint and its student
            self.for_each([run for run in self.runs if run.step == self.steps], StudentRun.save)
            for batch in self.batches(step):
                active = [run for run in self.runs if run.step == step]
                for run in active:
                    run.train_step(batch, self.rate(step, run.config))
                step += 1
                self.after_step(step, active, monitor, stop)
        if self.failures:
            raise PipelineError("; ".join(map(str, self.failures)))

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield the batches of all epochs from a step on, each with the teacher's embeddings of its images."""
        first, skip = divmod(step, max(1, len(self.loader)))
        for epoch in range(first, self.config.epochs):
            batches = self.loader.epoch(epoch, skip if epoch == first else 0)
            yield from self.live.add_embeddings(batches, epoch) if self.live else batches

    def rate(self, step: int, config: DistillConfig | PretrainConfig) -> float:
        """Return the learning rate of a step of a run, which may depend on its student."""
        warmup = round(config.warmup * len(self.loader))
        return learning_rate(step, peak=config.lr, steps=self.steps, warmup=warmup, schedule=config.schedule)

    def after_step(
        self, step: int, runs: list[StudentRun], monitor: Monitor | None, stop: StopRequest
    ) -> None:
        """Log, evaluate and save where it is due after `step` steps. Save and stop on Ctrl-C."""
        epoch, within = divmod(step, len(self.loader))
        if step % LOG_EVERY == 0 or step == self.steps:
            self.for_each(runs, StudentRun.log_progress)
        # before the checkpoint: a run interrupted in between evaluates again when it resumes
        if monitor and not within and epoch % (self.config.eval_every or 1) == 0:
            self.for_each(runs, partial(StudentRun.evaluate, monitor=monitor))
        # ranks agree now and then only, because each time costs a wait for the device
        stopping = (self.world.size == 1 or step % LOG_EVERY == 0) and any_rank(stop.wanted, self.device)
        if stopping or step % self.config.save_every == 0 or not within:
            self.for_each(runs, StudentRun.save)
        if stopping:
            raise KeyboardInterrupt

    def for_each(self, runs: list[StudentRun], act: Callable[[StudentRun], None]) -> None:
        """Call `act` for each run that is still training. A run that fails, on any rank, stops; the others continue."""
        for run in [run for run in runs if run in self.runs]:
            error = None
            try:
                act(run)
            except PipelineError as raised:
                error = raised
            if len(self.runs) > 1:  # ranks that went on with different runs would wait for each other
                error = next(filter(None, self.world.gather(error)), None)
            if not error:
                continue
            self.failures.append(error)
            self.runs.remove(run)
            if not self.runs:
                raise PipelineError("; ".join(map(str, self.failures))) from error
            self.announce(f"{run.folder} stops here: {error}")

    def open_loader(self) -> ImageLoader:
        """Return the loader of this rank, joined to the cache unless the teacher is live."""
        config, split = self.config, self.dataset.splits["train"]
        share = self.world.local_batch_size(config.batch_size)
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
            replay=self.replay,
            color_jitter=self.color_jitter,
            workers=config.workers,
            device=self.device,
        )

    def open_monitor(self) -> Monitor | None:
        """Return this rank's part of the monitor of --eval-every, or None without it."""
        if not self.config.eval_every:
            return None
        return Monitor(self.dataset, self.rows, self.config, self.world, self.device, self.monitored)

    def run(self) -> None:
        """Train into each run folder, from its last checkpoint on, and then leave the process group.

        Raises InUse if another process writes to one of the folders.
        """
        with contextlib.ExitStack() as held:
            held.enter_context(explain_lost_rank())
            held.enter_context(explain_nondeterminism())
            with self.world.together():
                if is_main_process():
                    for run in self.runs:
                        lock_run(run.folder, held, finished=run.is_finished)
                    for run in self.runs:
                        self.open_folder(run)
            self.fit_unfinished()
        # Not after an error: NCCL waits for the other ranks, which wait for this one, and the error would not be shown.
        shutdown_distributed()

    def open_folder(self, run: StudentRun) -> None:
        """Write a run's record, or check that the folder's is the same; where nothing was trained it may be another."""
        settings, usual = as_json(run.config), defaults(type(run.config))
        untrained, gpu = not is_trained(run.folder), gpu_record(self.device)
        open_run(run.folder, self.command, settings, self.made_of, usual, replaceable=untrained, gpu=gpu)

    def fit_unfinished(self) -> None:
        """Resume every run, and train those that are not finished, as the first rank finds them."""
        finished = self.world.gather([run.is_finished for run in self.runs])[0]
        for run, is_finished in zip(self.runs, finished, strict=True):
            if is_finished:
                self.announce(f"{run.folder} is finished: {self.steps} steps")
        self.runs = [run for run, is_finished in zip(self.runs, finished, strict=True) if not is_finished]
        if not self.runs:
            return
        for run in self.runs:
            run.resume()
        self.announce(self.summary())
        several = len(self.runs) > 1
        with contextlib.ExitStack() as opened:
            for run in self.runs:
                run.start(self.steps, run.folder.name if several else "")
                opened.callback(run.close)
            release_free_memory()
            self.fit()

    def summary(self) -> str:
        """Return what is about to run, as one line."""
        config, share = self.config, self.world.local_batch_size(self.config.batch_size)
        ranks = f" ({share} on each of {self.world.size} ranks)" if self.world.size > 1 else ""
        students = " and ".join(run.config.student for run in self.runs)
        steps = [run.step for run in self.runs]
        start = f", from step {' and '.join(map(str, steps))}" if any(steps) else ""
        shown = f", with {self.live.name} live on each crop" if self.live else ""
        shown += f", {self.replay.views} cached views in turn" if self.replay else ""
        excluded = f" (left out: {self.excluded})" if self.excluded else ""
        return (
            f"{self.command}: {students} at {config.image_size} px on {len(self.rows):,} rows{excluded}, "
            f"{self.objective.describe()}{shown}; {config.epochs} epochs of {len(self.loader)} batches of "
            f"{config.batch_size}{ranks}, {config.amp_dtype} on {self.device.type}{start}"
        )

    def announce(self, line: str) -> None:
        """Print a line, in the main process only."""
        if is_main_process():
            print(line, flush=True)
