"""Which backbone to load, in a form that can be sent to another process."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.models.backbone import Backbone
from pipeline.models.layer_features import at_layer
from pipeline.models.student_file import load_run_student
from pipeline.teachers.registry import load_teacher


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Which backbone a worker loads: a teacher by name, or the student of a run folder; or a layer inside it."""

    kind: Literal["teacher", "run"]
    name: str = ""
    weights: Path | None = None
    image_size: int | None = None
    run: Path | None = None
    layer: str = ""

    def resolve(self) -> "BackboneSpec":
        """The same with absolute paths, for processes that run elsewhere."""
        weights, run = self.weights and self.weights.resolve(), self.run and self.run.resolve()
        return replace(self, weights=weights, run=run)

    def origin(self) -> dict[str, str]:
        """What a person called the backbone: for lineages, since an identity knows hashes only."""
        if self.run is not None:
            return {"run": self.run.name}
        return {"name": self.name} | ({"file": self.weights.name} if self.weights else {})

    def load(self) -> Backbone:
        """The backbone on the CPU. Raises WrongUse or PipelineError."""
        if self.kind == "run":
            assert self.run is not None
            backbone = load_run_student(self.run, image_size=self.image_size)
        else:
            backbone = load_teacher(self.name, self.weights, image_size=self.image_size)
        return at_layer(backbone, self.layer) if self.layer else backbone
