"""One student in the training loop: its network, objective and optimiser, what a step does, and its run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cache.identity import identity_difference
from cache.sigbus import require_sizes
from pipeline.errors import PipelineError
from pipeline.loading.batch import Batch
from pipeline.loading.random_crop import stream
from pipeline.models.checkpoints import first_line, load_optimizer, load_resume, load_strictly, save_resume
from pipeline.models.optimizer import build_optimizer
from pipeline.models.student_file import save_student
from pipeline.models.students import Student
from pipeline.objectives.objective import Objective
from pipeline.runtime.distributed import World, any_rank
from pipeline.runtime.provenance import versions
from pipeline.settings.commands import DistillConfig, PretrainConfig
from pipeline.training.health import Watch, non_finite_weights
from pipeline.training.knn_monitor import NearestMonitor
from pipeline.training.run_log import RunLog

DROPOUT_STREAM = 1 << 20  # far from the streams of views, which count from 0
STUDENT_FILE = "student.safetensors"
RESUME_FILE = "resume.pt"
RESUME_STATE = ("step", "network", "optimizer", "objective", "conditions")


@dataclass(kw_only=True, eq=False)
class StudentRun:
    """What is trained into the folder `config.run`, on this rank. Its bits are those of the run alone, whatever
    other students see the same batches: it shares with them nothing that it changes.
    """

    config: DistillConfig | PretrainConfig
    student: Student
    objective: Objective
    world: World
    device: str

    def __post_init__(self) -> None:
        torch.manual_seed(self.config.seed)
        self.network = nn.Sequential(self.student, self.objective.head())
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.objective.to(self.device).start(self.network)
        self.optimizer = build_optimizer(self.config, self.network)
        self.step = 0
        self.saved_step: int | None = None
        self.watch = Watch()
        self.log: RunLog | None = None

    @property
    def folder(self) -> Path:
        return self.config.run

    def is_finished(self, steps: int) -> bool:
        """Whether all is done that a run of so many steps does."""
        return self.step == steps and (self.folder / STUDENT_FILE).exists()

    def begin(self, steps: int, name: str) -> None:
        """Get ready for the steps to come, of so many in all; `name` stands before the progress bar."""
        self.steps, self.model = steps, self.parallel()
        if self.world.is_first:
            batch = self.config.batch_size
            self.log = RunLog(self.folder, step=self.step, steps=steps, batch_size=batch, name=name)

    def parallel(self) -> nn.Module:
        """The network as it is called in a step: over the ranks, compiled where asked."""
        model: nn.Module = self.network
        if self.world.size > 1:
            devices = [self.world.local_rank] if self.device == "cuda" else None
            model = DistributedDataParallel(model, device_ids=devices)
        if self.config.compile:
            model.compile()
        return model

    def learn(self, batch: Batch, rate: float) -> None:
        """One step: embed the views, score them, descend at a learning rate, and let the objective follow."""
        torch.manual_seed(int(stream(self.config.seed, self.step, self.world.rank, DROPOUT_STREAM)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        with self.autocast():
            embeddings = self.model(torch.cat(batch.images)).chunk(self.objective.views)
            loss = self.objective(embeddings, batch, self.step)
        self.watch.note(self.step + 1, batch.rows, loss, embeddings)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with self.autocast():
            self.objective.after_step(self.network, embeddings, batch, self.step)
        self.step += 1
        self.loss = loss.detach()

    def autocast(self) -> torch.autocast:
        """bf16 where asked; parameters and losses stay float32."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.config.amp_dtype == "bf16")

    def report(self) -> None:
        """Log the loss, unless it is not finite, and warn of features that are all alike."""
        self.check()
        if not self.log:
            return
        self.log.progress(self.step, loss=self.loss.item(), lr=self.optimizer.param_groups[0]["lr"])
        warning = self.watch.collapse(self.step)
        if warning:
            self.log.say(warning)

    def evaluate(self, monitor: NearestMonitor) -> None:
        """Log the nearest-neighbour accuracy of the student as it is."""
        if self.log:
            self.log.write(self.step, **monitor.evaluate(self.student))

    def check(self, *, weights: bool = False) -> None:
        """Stop every rank when a step since the last check, or the weights if asked, were not finite on any."""
        problem = self.watch.problem()
        if weights and not problem:
            problem = non_finite_weights(self.network, self.step)
        if not any_rank(problem is not None, self.world, self.device):
            return
        kept = f"the last good checkpoint in {self.folder} is of step {self.saved_step}"
        raise PipelineError(
            f"{problem or f'another rank stopped by step {self.step}'}; "
            f"{'there is no checkpoint yet' if self.saved_step is None else kept}, and the same settings would come "
            "to this again: begin a new run with a smaller --lr, a --warmup, or --amp-dtype fp32"
        )

    def save(self) -> None:
        """Write the student and everything that an exact resume needs, if all of it is finite."""
        self.check(weights=True)
        require_sizes()
        self.saved_step = self.step
        if not self.world.is_first:
            return
        save_student(self.folder, self.student, {"step": str(self.step), "steps": str(self.steps)})
        save_resume(
            self.folder / RESUME_FILE,
            {
                "step": self.step,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "objective": self.objective.state_dict(),
                "conditions": self.conditions(),
            },
        )

    def resume(self) -> None:
        """Go on from the folder's last checkpoint, if there is one.

        Raises PipelineError when the bits could come out otherwise than in one go, unless --inexact.
        """
        file = self.folder / RESUME_FILE
        if not file.exists():
            return
        state = load_resume(file)
        if lacking := [name for name in RESUME_STATE if name not in state]:
            raise PipelineError(
                f"{file} lacks {', '.join(lacking)}: it is of something else, remove it to begin again"
            )
        differences = identity_difference(state["conditions"], self.conditions())
        if differences and not self.config.inexact:
            raise PipelineError(
                f"going on here would not be exact ({'; '.join(differences)}): repeat these, or give --inexact"
            )
        try:
            load_strictly(self.network, state["network"], f"{file}")
            load_optimizer(self.optimizer, state["optimizer"])
            self.objective.load_state_dict(state["objective"])
            self.step = self.saved_step = int(state["step"])
        except PipelineError:
            raise
        except Exception as error:  # of a file that was edited PyTorch may raise anything
            raise PipelineError(
                f"{file} does not fit this run ({first_line(error)}): remove it to begin again"
            ) from error

    def conditions(self) -> dict[str, Any]:
        """What bits depend on beside the settings."""
        return {
            "world_size": self.world.size,
            "device": self.device,
            "torch_threads": torch.get_num_threads(),
            "versions": versions(),
        }

    def close(self) -> None:
        if self.log:
            self.log.close()
