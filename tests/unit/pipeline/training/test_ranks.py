"""Several ranks are one run: what they compare, what one of them does for all, and what they do together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.errors import CorruptStore
from cache.reader import Split, open_store
from pipeline.errors import PipelineError
from pipeline.evaluate.fidelity import most_similar
from pipeline.images.dataset import open_dataset
from pipeline.models.students import build_student
from pipeline.neighbours import knn
from pipeline.objectives.simreg import SimReg
from pipeline.runtime.device import CPU
from pipeline.runtime.distributed import World
from pipeline.settings.training import DistillConfig
from pipeline.training import student_run
from pipeline.training.distill import open_split
from pipeline.training.monitor import Monitor, TeacherSplits
from pipeline.training.student_run import StudentRun
from tests.support.training_runs import settings
from tests.support.two_ranks import on_two_ranks

NORMALIZED = "tests.support.tiny_student:normalized"
GPU = torch.device("cuda", 1)


def run_of(config: DistillConfig, world: World) -> StudentRun:
    student = build_student(config.student, image_size=24, seed=config.seed)
    objective = SimReg(student_dim=student.dim, teacher_dim=24)
    return StudentRun(config=config, student=student, objective=objective, world=world, device=CPU)


def saved(config: DistillConfig, step: int) -> DistillConfig:
    """Write the checkpoint of a step into the run folder."""
    config.run.mkdir()
    run = run_of(config, World())
    run.step, run.steps = step, 12
    run.save()
    return config


def resumed(rank: int, pairs: list[tuple[DistillConfig, DistillConfig]]) -> list[Any]:
    """Return the step that this rank resumes from, or the error, where each rank has its own run folder."""
    found: list[Any] = []
    for pair in pairs:
        run = run_of(pair[rank], World(rank=rank, size=2, local_rank=rank))
        try:
            run.resume()
            found.append(run.step)
        except PipelineError as error:
            found.append(str(error))
    return found


def test_ranks_that_find_different_checkpoints_do_not_go_on(
    packed: Path, cached: Path, tmp_path: Path
) -> None:
    config = settings(packed, cached, tmp_path / "a", wd=0.0, optimizer="sgd", inexact=True)
    eight = saved(config, 8)
    nine = saved(replace(config, run=tmp_path / "b"), 9)
    other = saved(replace(config, run=tmp_path / "c", seed=1), 8)
    absent = replace(config, run=tmp_path / "d")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "resume.pt").write_bytes(b"half")
    damaged = replace(config, run=tmp_path / "e")
    pairs = [
        (eight, eight),
        (absent, absent),
        (eight, nine),
        (eight, other),
        (eight, absent),
        (eight, damaged),
    ]
    zero, one = on_two_ranks(resumed, tmp_path, pairs)
    assert zero[:2] == one[:2] == [8, 0]
    for found, steps in zip(zip(zero[2:5], one[2:5], strict=True), ("8, 9", "8, 8", "8, 0"), strict=True):
        for sentence in found:
            assert f"of steps {steps}: all machines must share the run folder" in sentence
    assert zero[5] == one[5]
    assert "resume.pt" in zero[5]


def evaluated(rank: int, config: DistillConfig, cached: Path) -> dict[str, Any]:
    world, dataset = World(rank=rank, size=2, local_rank=rank), open_dataset(config.dataset)
    found: dict[str, Any] = {"reads": 0, "seen": 0}
    student = perturbed(config, rank)
    features = Monitor.features

    def counted(self: Monitor, *arguments: Any) -> Any:
        result = features(self, *arguments)
        found["seen"] += len(result)
        return result

    def verify(self: Split) -> None:
        found["reads"] += 1
        if found["reads"] > 1:
            raise CorruptStore("planted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "features", counted)
        patch.setattr(Split, "verify", verify)
        for rows in (160, 1):  # with one row, the second rank has none
            monitor = Monitor(dataset, np.arange(rows), config, world, CPU, teacher_of(cached))
            found[f"of {rows}"] = monitor.evaluate(student)
        found["statistics"] = [buffer.tolist() for buffer in student.buffers()]
        split = open_store(cached).split("train")
        open_split(split, dataset.splits["train"], world)
        with pytest.raises(CorruptStore, match="planted"):
            open_split(split, dataset.splits["train"], world)
    return found


def teacher_of(cached: Path) -> TeacherSplits:
    store = open_store(cached)
    return TeacherSplits(train=store.split("train"), val=store.split("val"))


def perturbed(config: DistillConfig, rank: int) -> torch.nn.Module:
    """Return a student whose running statistics differ between ranks, as they do after a step."""
    student = build_student(config.student, image_size=24, seed=0)
    for name, buffer in student.named_buffers():
        if name.endswith("running_mean"):
            buffer += rank * torch.linspace(-3, 3, len(buffer))
    return student


def test_ranks_evaluate_together_and_one_verifies_the_cache(
    packed: Path, cached: Path, tmp_path: Path
) -> None:
    config = settings(packed, cached, tmp_path / "run", student=NORMALIZED, amp_dtype="fp32")
    dataset, student = open_dataset(packed), perturbed(config, 0)
    zero, one = on_two_ranks(evaluated, tmp_path, config, cached)
    for rows in (160, 1):
        alone = Monitor(dataset, np.arange(rows), config, World(), CPU, teacher_of(cached)).evaluate(student)
        assert set(alone) == {"nn1", "nn20", "recall10", "divergence"}
        assert zero[f"of {rows}"] == one[f"of {rows}"] == alone
    assert zero["statistics"] == one["statistics"] == [buffer.tolist() for buffer in student.buffers()]
    assert (zero["seen"], one["seen"]) == (80 + 20 + 1 + 20, 80 + 20 + 0 + 20)
    assert (zero["reads"], one["reads"]) == (2, 0)


def test_the_neighbours_of_parts_merge_to_those_of_the_whole() -> None:
    draws = np.random.default_rng(0)
    rows = draws.integers(-1, 2, (90, 3)).astype(np.float32)  # many are equal
    queries, parts = draws.normal(size=(40, 3)).astype(np.float32), np.array_split(np.arange(90), [7, 7, 60])
    found = []
    for part in parts:  # one has fewer rows than neighbours, one has none
        nearest = knn(rows[part], queries, min(20, len(part))) if len(part) else np.empty((2, 40, 0))
        found.append((nearest[0], part[nearest[1].astype(int)]))
    np.testing.assert_array_equal(most_similar(found, 20)[1], knn(rows, queries, 20)[1])


def test_ddp_gets_the_gpu_of_its_rank(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(student_run, "DistributedDataParallel", lambda model, **given: calls.append(given))
    run = run_of(
        settings(packed, cached, tmp_path, wd=0.0, optimizer="sgd"), World(size=8, rank=5, local_rank=1)
    )
    run.wrap_model()
    run.device = GPU
    run.wrap_model()
    assert calls == [{"device_ids": None}, {"device_ids": [GPU]}]


def test_the_conditions_of_a_gpu_are_its_model_and_not_the_threads(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    run = run_of(settings(packed, cached, tmp_path, wd=0.0, optimizer="sgd"), World())
    on_cpu = run.conditions()
    assert (on_cpu["device"], on_cpu["torch_threads"]) == ("cpu", torch.get_num_threads())
    assert "gpu" not in on_cpu
    run.device = GPU
    assert run.conditions() | {"versions": {}} == {
        **({"code": on_cpu["code"]} if "code" in on_cpu else {}),
        **{"world_size": 1, "device": "cuda", "gpu": "NVIDIA H100", "versions": {}},
    }
