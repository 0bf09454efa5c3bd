"""THE training loop, of distillation and of pretraining alike: what differs is the objective and the views."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cache.layout import identity_difference
from cache.lock import sole_writer
from cache.reader import Split
from pipeline.checkpoints import load_resume, load_strictly, save_resume, save_student
from pipeline.colour import ColourJitter
from pipeline.config import DistillConfig, PretrainConfig, as_json, defaults
from pipeline.crops import RandomCrop, stream
from pipeline.dataset import Dataset
from pipeline.distributed import World, use_every_core
from pipeline.errors import PipelineError
from pipeline.interrupt import StopRequest
from pipeline.live import LiveTeacher
from pipeline.loaders import ImageLoader, Order
from pipeline.monitor import NearestMonitor
from pipeline.objectives.objective import Batch, Objective
from pipeline.provenance import versions
from pipeline.runlog import RunLog, open_run
from pipeline.schedule import learning_rate
from pipeline.students import Student
from pipeline.watch import Watch, non_finite_weights

LOG_EVERY = 10
MOMENTUM = 0.9
DROPOUT_STREAM = 1 << 20  # far from the streams of views, which count from 0
STUDENT_FILE = "student.safetensors"
RESUME_FILE = "resume.pt"
RESUME_STATE = ("step", "network", "optimizer", "objective", "conditions")


@dataclass(kw_only=True)
class Training:
    """One run: what is trained, on which rows, with what. `fit` is the loop; the rest sets it up and saves it.

    rows: int64, the rows to train on. left_out: how many others cannot be, and why. teacher: the cache's split that
    the loader joins, if the objective needs it.
    live: the teacher itself, which then takes the place of that join. made_of: the identities that go into the
    run folder.
    """

    command: str
    config: DistillConfig | PretrainConfig
    dataset: Dataset
    rows: np.ndarray
    student: Student
    objective: Objective
    world: World
    device: str
    made_of: dict[str, Any]
    left_out: str = ""
    teacher: Split | None = None
    live: LiveTeacher | None = None
    colour: ColourJitter | None = None

    def __post_init__(self) -> None:
        config = self.config
        use_every_core()
        torch.manual_seed(config.seed)
        self.network = nn.Sequential(self.student, self.objective.head())
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.objective.to(self.device).start(self.network)
        self.optimizer = build_optimizer(config, self.network)
        self.loader = self.open_loader()
        self.steps = len(self.loader) * config.epochs
        if config.epochs and not self.steps:
            raise PipelineError(
                f"{len(self.rows)} rows do not fill one batch of {config.batch_size}: give a smaller --batch-size"
            )
        self.step = 0
        self.saved_step: int | None = None
        self.watch = Watch()

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

    def run(self, folder: Path) -> None:
        """Train into a run folder, from its last checkpoint on if it has one; InUse if another process does."""
        with contextlib.ExitStack() as held:
            if self.world.is_first:
                config = self.config
                held.enter_context(sole_writer(folder))
                open_run(folder, self.command, as_json(config), self.made_of, defaults(type(config)))
            self.go_on(folder)

    def go_on(self, folder: Path) -> None:
        """Train to the end in a run folder that no other process writes to."""
        self.resume(folder)
        if self.step == self.steps and (folder / STUDENT_FILE).exists():
            self.say(f"{folder} is finished: {self.steps} steps")
            return
        self.say(self.summary())
        log = None
        if self.world.is_first:
            log = RunLog(folder, step=self.step, steps=self.steps, batch_size=self.config.batch_size)
        try:
            self.fit(folder, log)
        finally:
            if log:
                log.close()

    def fit(self, folder: Path, log: RunLog | None) -> None:
        """The loop. The learning rate, the anchors and every random draw are functions of the step."""
        config, model = self.config, self.parallel()
        monitor = NearestMonitor(self.dataset, self.rows, config, self.device) if config.eval_every else None
        first, skip = divmod(self.step, len(self.loader)) if self.steps else (0, 0)
        with StopRequest() as stop:
            for epoch in range(first, config.epochs):
                for batch in self.loader.epoch(epoch, skip):
                    loss = self.learn(model, batch)
                    if self.step % LOG_EVERY == 0 or self.step == self.steps:
                        self.check(folder)
                        if log:
                            self.report(log, loss)
                    if self.agreed(stop.wanted):
                        self.save(folder)
                        raise KeyboardInterrupt
                    if self.step % config.save_every == 0:
                        self.save(folder)
                self.save(folder)
                skip = 0
                if monitor and log and (epoch + 1) % config.eval_every == 0:
                    log.write(self.step, **monitor.evaluate(self.student))
        if not config.epochs:
            self.save(folder)

    def learn(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """One step: embed the views, score them, descend, and let the objective follow. Returns the loss."""
        if self.live:
            batch = self.live.join(batch)
        torch.manual_seed(int(stream(self.config.seed, self.step, self.world.rank, DROPOUT_STREAM)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.network.train()
        with self.autocast():
            embeddings = model(torch.cat(batch.images)).chunk(self.objective.views)
            loss = self.objective(embeddings, batch, self.step)
        self.watch.note(self.step + 1, batch.rows, loss, embeddings)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with self.autocast():
            self.objective.after_step(self.network, embeddings, batch, self.step)
        self.step += 1
        return loss.detach()

    def rate(self) -> float:
        """The learning rate of the step to come."""
        config = self.config
        warmup = round(config.warmup * len(self.loader))
        return learning_rate(
            self.step, peak=config.lr, steps=self.steps, warmup=warmup, schedule=config.schedule
        )

    def report(self, log: RunLog, loss: torch.Tensor) -> None:
        """Log the loss, and warn of features that are all alike."""
        log.progress(self.step, loss=loss.item(), lr=self.optimizer.param_groups[0]["lr"])
        warning = self.watch.collapse(self.step)
        if warning:
            log.say(warning)

    def check(self, folder: Path, *, weights: bool = False) -> None:
        """Stop every rank when a step since the last check, or the weights if asked, were not finite on any."""
        problem = self.watch.problem()
        if weights and not problem:
            problem = non_finite_weights(self.network, self.step)
        if not self.agreed(problem is not None):
            return
        kept = f"the last good checkpoint in {folder} is of step {self.saved_step}"
        raise PipelineError(
            f"{problem or f'another rank stopped by step {self.step}'}; "
            f"{'there is no checkpoint yet' if self.saved_step is None else kept}, and the same settings would come "
            "to this again: begin a new run with a smaller --lr, a --warmup, or --amp-dtype fp32"
        )

    def autocast(self) -> torch.autocast:
        """bf16 where asked; parameters and losses stay float32."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.config.amp_dtype == "bf16")

    def parallel(self) -> nn.Module:
        """The network as it is called in a step: over the ranks, compiled where asked."""
        model: nn.Module = self.network
        if self.world.size > 1:
            devices = [self.world.local_rank] if self.device == "cuda" else None
            model = DistributedDataParallel(model, device_ids=devices)
        if self.config.compile:
            model.compile()
        return model

    def agreed(self, wish: bool) -> bool:
        """Whether any rank wishes it, so that all ranks stop at the same step."""
        if self.world.size == 1:
            return wish
        flag = torch.tensor(float(wish), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    def save(self, folder: Path) -> None:
        """Write the student and everything that an exact resume needs, if all of it is finite."""
        self.check(folder, weights=True)
        self.saved_step = self.step
        if not self.world.is_first:
            return
        save_student(folder, self.student, {"step": str(self.step), "steps": str(self.steps)})
        save_resume(
            folder / RESUME_FILE,
            {
                "step": self.step,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "objective": self.objective.state_dict(),
                "conditions": self.conditions(),
            },
        )

    def resume(self, folder: Path) -> None:
        """Go on from the folder's last checkpoint, if there is one.

        Raises PipelineError when the bits could come out otherwise than in one go, unless --inexact.
        """
        if not (folder / RESUME_FILE).exists():
            return
        state = load_resume(folder / RESUME_FILE)
        if lacking := [name for name in RESUME_STATE if name not in state]:
            raise PipelineError(
                f"{folder / RESUME_FILE} lacks {', '.join(lacking)}: it is of something else, remove it to begin again"
            )
        differences = identity_difference(state["conditions"], self.conditions())
        if differences and not self.config.inexact:
            raise PipelineError(
                f"going on here would not be exact ({'; '.join(differences)}): repeat these, or give --inexact"
            )
        load_strictly(self.network, state["network"], f"{folder / RESUME_FILE}")
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.step = self.saved_step = state["step"]

    def conditions(self) -> dict[str, Any]:
        """What bits depend on beside the settings."""
        return {
            "world_size": self.world.size,
            "device": self.device,
            "torch_threads": torch.get_num_threads(),
            "versions": versions(),
        }

    def summary(self) -> str:
        """What is about to run, in a sentence."""
        config, share = self.config, self.world.share(self.config.batch_size)
        ranks = f" ({share} on each of {self.world.size} ranks)" if self.world.size > 1 else ""
        start = f", from step {self.step}" if self.step else ""
        live = f", with {self.live.name} live on each crop" if self.live else ""
        left_out = f" (left out: {self.left_out})" if self.left_out else ""
        return (
            f"{self.command}: {config.student} at {config.image_size} px on {len(self.rows):,} rows{left_out}, "
            f"{self.objective.describe()}{live}; {config.epochs} epochs of {len(self.loader)} batches of "
            f"{config.batch_size}{ranks}, {config.amp_dtype} on {self.device}{start}"
        )

    def say(self, sentence: str) -> None:
        if self.world.is_first:
            print(sentence, flush=True)


def build_optimizer(config: DistillConfig | PretrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, the paper's, or AdamW; the rate is set at every step."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), config.lr, weight_decay=config.wd)
    return torch.optim.SGD(network.parameters(), config.lr, momentum=MOMENTUM, weight_decay=config.wd)
