"""One student in the training loop: its network, objective and optimizer, its training step, and its run folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cache.identity import identity_difference
from cache.sigbus import require_intact_files
from pipeline.errors import PipelineError, first_line
from pipeline.loading.batch import Batch
from pipeline.loading.random_crop import stream
from pipeline.models.backbone import comparable
from pipeline.models.checkpoints import load_optimizer, load_resume, load_strictly, save_resume
from pipeline.models.optimizer import build_optimizer
from pipeline.models.student_file import save_student
from pipeline.models.students import Student
from pipeline.objectives.objective import Objective
from pipeline.runtime.device import gpu_record
from pipeline.runtime.distributed import World, any_rank, is_main_process
from pipeline.runtime.provenance import versions
from pipeline.settings.field import as_json
from pipeline.settings.training import DistillConfig, PretrainConfig
from pipeline.training.health import TrainingHealth, non_finite_weights
from pipeline.training.monitor import Monitor, in_words
from pipeline.training.recorded_run import RESUME_FILE, steps_of_complete
from pipeline.training.run_log import RunLog
from pipeline.training.tracker import open_tracker

DROPOUT_STREAM = 1 << 20  # far from the streams of views, which are numbered from 0
RESUME_STATE = ("step", "network", "optimizer", "objective", "conditions")


@dataclass(kw_only=True, eq=False)
class StudentRun:
    """The training of one student into the folder `config.run`, on this rank.

    Its results do not depend on the other students of a pass: it shares with them nothing that it changes.
    """

    config: DistillConfig | PretrainConfig
    student: Student
    objective: Objective
    world: World
    device: torch.device

    def __post_init__(self) -> None:
        torch.manual_seed(self.config.seed)
        self.network = nn.Sequential(self.student, self.objective.head())
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.objective.to(self.device).start(self.network)
        self.optimizer = build_optimizer(self.config, self.network)
        self.step = 0
        self.saved_step: int | None = None
        self.health = TrainingHealth()
        self.log: RunLog | None = None

    @property
    def folder(self) -> Path:
        return self.config.run

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done and the student is written."""
        return steps_of_complete(self.folder) is not None

    def start(self, steps: int, name: str) -> None:
        """Prepare for training up to `steps`; `name` labels the progress bar."""
        self.steps, self.model = steps, self.wrap_model()
        if is_main_process():
            batch, wanted = self.config.batch_size, self.config.tracker
            tracker = open_tracker(wanted, self.folder, as_json(self.config)) if wanted else None
            self.log = RunLog(
                self.folder, step=self.step, steps=steps, batch_size=batch, name=name, tracker=tracker
            )

    def wrap_model(self) -> nn.Module:
        """Return the network in DistributedDataParallel if there are several ranks, compiled if --compile."""
        model: nn.Module = self.network
        if self.world.size > 1:
            devices = None if self.device.type == "cpu" else [self.device]
            model = DistributedDataParallel(model, device_ids=devices)
        if self.config.compile:
            model.compile()
        return model

    def train_step(self, batch: Batch, rate: float) -> None:
        """Do one step on a batch, at a learning rate."""
        torch.manual_seed(int(stream(self.config.seed, self.step, self.world.rank, DROPOUT_STREAM)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        with self.autocast():
            embeddings = self.model(torch.cat(batch.images)).chunk(self.objective.views)
            loss = self.objective(embeddings, batch, self.step)
        self.health.record(self.step + 1, batch.rows, loss, embeddings)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with self.autocast():
            self.objective.after_step(self.network, embeddings, batch, self.step)
        self.step += 1
        self.loss = loss.detach()

    def autocast(self) -> torch.autocast:
        """Return the autocast context of --amp-dtype. Parameters and losses stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp_dtype == "bf16")

    def log_progress(self) -> None:
        """Log the loss, and warn if the features have collapsed. PipelineError for anything not finite."""
        self.require_finite()
        if not self.log:
            return
        self.log.progress(self.step, loss=self.loss.item(), lr=self.optimizer.param_groups[0]["lr"])
        warning = self.health.collapse_warning(self.step)
        if warning:
            self.log.print(warning)

    def evaluate(self, monitor: Monitor) -> None:
        """Log what the monitor measures of the student now, to which every rank contributes."""
        measured = monitor.evaluate(self.student)
        if self.log:
            self.log.write(self.step, **measured)
            self.log.print(f"step {self.step:,}: {in_words(measured)}")

    def require_finite(self, *, weights: bool = False) -> None:
        """Raise PipelineError on every rank if a loss or features since the last call are not finite on any rank.

        weights: check the weights as well.
        """
        problem = self.health.first_problem()
        if weights and not problem:
            problem = non_finite_weights(self.network, self.step)
        if not any_rank(problem is not None, self.device):
            return
        kept = f"the last good checkpoint in {self.folder} is of step {self.saved_step}"
        raise PipelineError(
            f"{problem or f'another rank stopped at step {self.step}'}; "
            f"{'there is no checkpoint yet' if self.saved_step is None else kept}; the same settings would fail "
            "again, so start a new run with a smaller --lr, a --warmup, or --amp-dtype fp32"
        )

    def save(self) -> None:
        """Write the checkpoint of an exact resume, then the student, if all is finite.

        The student of the last step says that a run is finished, so it comes last.
        """
        self.require_finite(weights=True)
        require_intact_files()
        self.saved_step = self.step
        objective = self.objective.state_dict()  # of all ranks, each of which may hold a part
        if not is_main_process():
            return
        save_resume(
            self.folder / RESUME_FILE,
            {
                "step": self.step,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "objective": objective,
                "conditions": self.conditions(),
            },
        )
        save_student(self.folder, self.student, {"step": str(self.step), "steps": str(self.steps)})

    def resume(self) -> None:
        """Load the folder's last checkpoint, if there is one.

        Raises PipelineError, unless --inexact, if the results could differ from those of an uninterrupted run, and if
        the ranks do not find the same checkpoint.
        """
        file = self.folder / RESUME_FILE
        conditions = self.world.gather(self.conditions())[0]  # those that the first rank saved
        digest = ""
        with self.world.together():
            if file.exists():
                self.load(file, conditions)
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
        found = self.world.gather((self.step, digest))
        if len(set(found)) > 1:
            steps = ", ".join(str(step) for step, _ in found)
            raise PipelineError(
                f"the ranks found different checkpoints in {self.folder}, of steps {steps}: all machines must share "
                "the run folder; put it on a file system that they share, or start again in a new one"
            )

    def load(self, file: Path, conditions: dict[str, Any]) -> None:
        """Load a checkpoint that was saved under these conditions, or under any with --inexact."""
        state = load_resume(file)
        if missing := [name for name in RESUME_STATE if name not in state]:
            raise PipelineError(
                f"{file} is not a checkpoint of a run: {', '.join(missing)} missing; remove it to start again"
            )
        conditions = comparable(conditions, state["conditions"])
        differences = identity_difference(state["conditions"], conditions)
        if differences and not self.config.inexact:
            raise PipelineError(
                f"resuming would not be exact ({'; '.join(differences)}): restore these, or give --inexact"
            )
        try:
            load_strictly(self.network, state["network"], f"{file}")
            load_optimizer(self.optimizer, state["optimizer"])
            self.objective.load_state_dict(state["objective"])
            self.step = self.saved_step = int(state["step"])
        except PipelineError:
            raise
        except Exception as error:  # PyTorch may raise anything for a file that was edited
            raise PipelineError(
                f"{file} does not fit this run ({first_line(error)}): remove it to start again"
            ) from error

    def conditions(self) -> dict[str, Any]:
        """Return what else the results depend on, besides the settings: on a GPU its model, not the CPU's threads."""
        threads = {"torch_threads": torch.get_num_threads()}
        return {
            "world_size": self.world.size,
            "device": self.device.type,
            **(gpu_record(self.device) or threads),
            "versions": versions(),
            **({"code": self.student.code} if self.student.code else {}),
            **({"objective": {"code": self.objective.code}} if self.objective.code else {}),
        }

    def close(self) -> None:
        if self.log:
            self.log.close()


def student_runs(
    configs: Sequence[DistillConfig | PretrainConfig],
    students: Sequence[Student],
    objectives: Sequence[Objective],
    world: World,
    device: torch.device,
) -> list[StudentRun]:
    """Return a StudentRun for each config, with its student and objective."""
    return [
        StudentRun(config=config, student=student, objective=objective, world=world, device=device)
        for config, student, objective in zip(configs, students, objectives, strict=True)
    ]
