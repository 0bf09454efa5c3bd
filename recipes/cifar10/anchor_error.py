"""How near the loss over K anchors, and its gradient, come to those over all images, for each --anchor-policy.

    python -m recipes.cifar10.anchor_error            # measures; writes docs/results/cifar10-anchor-error.json
    python -m recipes.cifar10.anchor_error --table    # writes the table of docs/beyond.md from it

The student is the same network as the teacher at half of the resolution, whose embeddings are of one space with the
teacher's (teachers.toml makes its cache).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cache.durable import write_file
from cache.reader import Split, open_store
from pipeline.evaluate.fidelity import common_rows
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import build_objective, resolved
from pipeline.results.markdown_file import write_into
from pipeline.runtime.provenance import provenance
from pipeline.settings.training import DistillConfig

TEACHER, STUDENT = Path("caches/cifar10-20k.zarr"), Path("caches/cifar10-20k-lite0-48.zarr")
RESULT, PAGE = Path("docs/results/cifar10-anchor-error.json"), Path("docs/beyond.md")
BATCH, BATCHES, DRAWS = 128, 16, 4
SIZES = {"window": (256, 1024, 4096), "neighbours": (256, 1024, 4096), "kmeans": (256, 1024)}


def measure() -> None:
    teacher, student = (open_store(path, views=1).split("train") for path in (TEACHER, STUDENT))
    # both have an embedding of these: at 48 px some of the images come out as zero
    rows = common_rows([teacher, student], BATCHES * BATCH, np.random.default_rng(0)).reshape(BATCHES, BATCH)
    exact = [
        loss_and_gradient(objective(teacher, "all", "window"), teacher, student, each, 0) for each in rows
    ]
    found = []
    for policy, sizes in SIZES.items():
        for size in sizes:
            found.append(
                {"policy": policy, "anchors": size} | errors(policy, size, teacher, student, rows, exact)
            )
            print(found[-1])
    loss = float(np.mean([value for value, _ in exact]))
    content = {"loss": loss, "errors": found, "provenance": provenance()}
    write_file(RESULT, (json.dumps(content, indent=1) + "\n").encode())


def errors(
    policy: str, size: int, teacher: Split, student: Split, rows: np.ndarray, exact: list
) -> dict[str, float]:
    """Return the mean and the standard deviation over draws of anchors, both relative, and the gradient's cosine."""
    losses, cosines = np.zeros((DRAWS, len(rows))), []
    for draw in range(DRAWS):
        objective_of_draw = objective(teacher, str(size), policy, seed=draw)
        for number, each in enumerate(rows):
            losses[draw, number], gradient = loss_and_gradient(objective_of_draw, teacher, student, each, 0)
            cosines.append(F.cosine_similarity(gradient.flatten(), exact[number][1].flatten(), dim=0).item())
    true = np.array([value for value, _ in exact])
    return {
        "bias": float((losses.mean(0) / true - 1).mean()),
        "deviation": float((losses.std(0, ddof=1) / true).mean()),
        "cosine": float(np.mean(cosines)),
    }


def objective(teacher: Split, anchors: str, policy: str, seed: int = 0) -> Objective:
    places = {name: Path(name) for name in ("dataset", "cache", "run")}
    config = DistillConfig(
        **places,
        objective="1q",
        anchors=anchors,
        anchor_policy=policy,
        batch_size=BATCH,
        seed=seed,
        amp_dtype="fp32",
    )
    return build_objective(resolved(config), teacher.shape.dim, teacher, teacher.eligible())


def loss_and_gradient(
    objective: Objective, teacher: Split, student: Split, rows: np.ndarray, step: int
) -> tuple[float, Tensor]:
    """Return the loss of a batch, and its gradient with respect to the student's embeddings (B, D)."""
    leaf = torch.from_numpy(student.gather(rows)).float().requires_grad_()
    index, embedding = torch.from_numpy(rows), torch.from_numpy(teacher.gather(rows))
    loss = objective((leaf,), Batch(images=(), rows=index, labels=index, teacher=embedding), step)
    return loss.item(), torch.autograd.grad(loss, leaf)[0]


def write_table() -> None:
    if not RESULT.exists():
        write_into(PAGE, "cifar10-anchor-error", "*pending*: `python -m recipes.cifar10.anchor_error`")
        return
    content = json.loads(RESULT.read_text(encoding="utf-8"))
    origin = content["provenance"]
    lines = [
        "| policy | K | bias | standard deviation | cosine of the gradients |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for each in content["errors"]:
        numbers = f"{each['bias']:+.1%} | {each['deviation']:.1%} | {each['cosine']:.3f}"
        lines.append(f"| {each['policy']} | {each['anchors']:,} | {numbers} |")
    lines += [
        "",
        f"{BATCHES} batches of {BATCH} images, {DRAWS} draws of anchors; `python -m recipes.cifar10.anchor_error`, "
        f"commit {origin['commit']}, {origin['date'][:10]}.",
    ]
    write_into(PAGE, "cifar10-anchor-error", "\n".join(lines))


if __name__ == "__main__":
    write_table() if "--table" in sys.argv else measure()
