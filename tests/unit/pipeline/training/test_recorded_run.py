"""Runs that are finished, whatever runs the command again; runs of earlier versions; runs that never began."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import PipelineError, WrongUse
from pipeline.models.student_file import STUDENT_FILE
from pipeline.objectives.registry import OBJECTIVES
from pipeline.results.run_record import read_config
from pipeline.settings.training import DistillConfig, PretrainConfig
from pipeline.training.distill import distill
from pipeline.training.pretrain import pretrain
from pipeline.training.recorded_run import RESUME_FILE, steps_of_complete, with_precision
from pipeline.training.student_run import StudentRun
from tests.support.tiny_store import contents
from tests.support.training_runs import STUDENT, Crash, assert_same_run, distill_until_crash, settings

ELSEWHERE = {"torch": "99.0", "python": "4.0"}


def pretrain_settings(packed: Path, run: Path, **changes: Any) -> PretrainConfig:
    plain = PretrainConfig(
        dataset=packed, run=run, student=STUDENT, image_size=24, epochs=1, batch_size=40, device="cpu"
    )
    return replace(plain, **changes)


def move_elsewhere(patch: pytest.MonkeyPatch) -> None:
    """Make this machine another one: other versions, and another number of threads than any run has had."""
    patch.setattr("pipeline.training.student_run.versions", lambda: ELSEWHERE)
    patch.setattr("pipeline.training.student_run.torch.get_num_threads", lambda: 99)


def test_a_finished_run_is_finished_on_another_machine(
    packed: Path,
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = settings(packed, cached, tmp_path / "run", epochs=1)
    distill(config)
    before = contents(config.run)
    move_elsewhere(monkeypatch)
    # as on a machine without the GPU, and with three ranks, which cannot share a batch of 40
    capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, printed in (("0", f"{config.run} is finished: 4 steps\n"), ("2", "")):
        monkeypatch.setenv("RANK", rank)
        distill(replace(config, device="cuda"))
        assert capsys.readouterr().out == printed
    assert contents(config.run) == before


def test_only_what_goes_on_has_conditions(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(packed, cached, tmp_path / "run")
    distill_until_crash(config, monkeypatch)
    move_elsewhere(monkeypatch)
    with pytest.raises(PipelineError, match="resuming would not be exact"):
        distill(config)
    distill(replace(config, inexact=True))
    monkeypatch.undo()
    distill(config)
    with pytest.raises(PipelineError, match=r"config\.lr: expected 0\.2, found 0\.1"):
        distill(replace(config, lr=0.2))


def test_without_a_precision_the_device_decides_and_a_begun_run_keeps_its_own(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(packed, cached, tmp_path / "run", epochs=0, amp_dtype=None)
    for precision, instruction in (("fp32", "avx2"), ("bf16", "avx512_bf16")):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda instruction=instruction: {instruction: True}
        )
        begun = replace(config, run=tmp_path / precision)
        distill(begun)
        assert read_config(begun.run)["config"]["amp_dtype"] == precision
    kept = replace(config, run=tmp_path / "fp32")
    distill(kept)  # finished, and not another run
    new = replace(config, run=tmp_path / "new")
    assert [each.amp_dtype for each in with_precision((new, kept))] == ["fp32", "fp32"]
    with pytest.raises(PipelineError, match=r'config\.amp_dtype: expected "bf16", found "fp32"'):
        distill(replace(kept, amp_dtype="bf16"))


def test_the_record_of_a_run_that_never_trained_decides_no_precision(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(packed, cached, tmp_path / "run", epochs=0, amp_dtype="bf16")
    distill(config)
    unset = replace(config, amp_dtype=None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert [each.amp_dtype for each in with_precision((unset,))] == ["bf16"]
    for name in (STUDENT_FILE, RESUME_FILE):
        (config.run / name).unlink()
    assert [each.amp_dtype for each in with_precision((unset,))] == ["fp32"]


def test_a_finished_pretraining_is_finished_on_another_machine(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = pretrain_settings(packed, tmp_path / "run")
    pretrain(config)
    move_elsewhere(monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "3")
    pretrain(replace(config, device="cuda"))
    assert capsys.readouterr().out.endswith("run is finished: 4 steps\n")


def test_of_several_students_the_finished_ones_have_no_conditions(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = settings(packed, cached, tmp_path / "one", epochs=1)
    distill(one)
    move_elsewhere(monkeypatch)
    other = replace(one, run=tmp_path / "other", student="tests.support.tiny_student:plain")
    distill(one, other)
    assert steps_of_complete(other.run) == 4


def test_a_finished_run_needs_no_checkpoint_and_no_chunks(packed: Path, cached: Path, tmp_path: Path) -> None:
    config = settings(packed, cached, tmp_path / "run", epochs=1)
    distill(config)
    (config.run / RESUME_FILE).unlink()
    before = contents(config.run)
    distill(config)
    assert contents(config.run) == before


def test_a_damaged_student_of_a_finished_run_is_written_again(
    packed: Path, cached: Path, tmp_path: Path
) -> None:
    config = settings(packed, cached, tmp_path / "run", epochs=1)
    distill(config)
    whole = (config.run / STUDENT_FILE).read_bytes()
    (config.run / STUDENT_FILE).write_bytes(whole[:-1])
    distill(config)
    assert (config.run / STUDENT_FILE).read_bytes() == whole


def test_a_run_that_died_before_its_last_student_gets_it(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = settings(packed, cached, tmp_path / "whole")
    broken = replace(whole, run=tmp_path / "broken")
    distill(whole)

    def die(folder: Path, student: object, metadata: dict[str, str]) -> None:
        if metadata["step"] == metadata["steps"]:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.student_run.save_student", die)
        with pytest.raises(Crash):
            distill(broken)
    distill(broken)
    assert_same_run(whole.run, broken.run)
    assert (whole.run / RESUME_FILE).read_bytes() == (broken.run / RESUME_FILE).read_bytes()


def die_in_the_first_step(config: DistillConfig, patch: pytest.MonkeyPatch) -> None:
    with patch.context() as within:
        within.setattr(StudentRun, "train_step", lambda *arguments: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            distill(config)


def test_a_corrected_command_begins_where_nothing_was_trained(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(packed, cached, tmp_path / "run")
    die_in_the_first_step(replace(config, batch_size=32, lr=0.5), monkeypatch)
    assert read_config(config.run)["config"]["batch_size"] == 32
    distill(config)
    assert read_config(config.run)["config"]["batch_size"] == 40
    with pytest.raises(PipelineError, match="holds another run"):
        distill(replace(config, batch_size=32))


def as_an_earlier_version(run: Path) -> None:
    """Make a record of CRD that of a version which projected unit rows."""
    record = read_config(run)
    assert record["made_of"].pop("objective_revision") == 2
    (run / "config.json").write_text(json.dumps(record))


def crd_settings(packed: Path, cached: Path, run: Path) -> DistillConfig:
    return settings(packed, cached, run, objective="crd", anchors=None, batch_size=None, lr=None)


FORMER_CRD = {"batch_size": 40, "lr": 0.01, "wd": 1e-4}


def test_an_earlier_crd_in_progress_is_refused_and_a_finished_one_is_finished(
    packed: Path,
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun = replace(crd_settings(packed, cached, tmp_path / "begun"), **FORMER_CRD)
    distill_until_crash(begun, monkeypatch)
    as_an_earlier_version(begun.run)
    with pytest.raises(
        PipelineError, match="begun by an earlier version, whose objective crd was another one"
    ):
        distill(begun)
    done = replace(begun, run=tmp_path / "done", epochs=1)
    distill(done)
    as_an_earlier_version(done.run)
    distill(done)
    assert capsys.readouterr().out.endswith("done is finished: 4 steps\n")


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "former_epochs", [3, 130]
)  # the 3 epochs were the default, or given and are today's default
def test_a_run_with_the_former_defaults_keeps_them(
    packed: Path,
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: bool,
    former_epochs: int,
) -> None:
    """The command that began a run of ClusterFit goes on, although its defaults are others today."""
    left_out = settings(
        packed, cached, tmp_path / "run", objective="cc", anchors=None, epochs=None, lr=None, clusters=8
    )
    former = {"epochs": 3, "lr": 0.01, "optimizer": "sgd", "schedule": "step"}
    begin = replace(left_out, run=tmp_path / "begun", **former)
    if finished:
        distill(begin)
    else:
        distill_until_crash(begin, monkeypatch)
    begin.run.rename(left_out.run)
    cc = OBJECTIVES["cc"]
    changed = replace(
        cc, epochs=3 if former_epochs == 130 else 100, former={**cc.former, "epochs": former_epochs}
    )
    monkeypatch.setitem(OBJECTIVES, "cc", changed)
    distill(left_out)
    assert steps_of_complete(left_out.run) == 12


@pytest.mark.parametrize("kind", ["store", "dataset", "images"])
def test_a_store_a_dataset_or_a_folder_of_images_is_no_run_folder(
    kind: str, packed: Path, cached: Path, tmp_path: Path
) -> None:
    run = tmp_path / kind
    run.mkdir()
    name = {"store": "zarr.json", "dataset": "dataset.json", "images": "train"}[kind]
    if kind == "images":
        (run / name / "a").mkdir(parents=True)
    else:
        (run / name).write_text("{}")
    before = contents(run)
    with pytest.raises(
        WrongUse, match=f"{kind} holds {name}, so it is not the folder of a run; choose another path"
    ):
        distill(settings(packed, cached, run))
    with pytest.raises(WrongUse, match=f"{kind} holds {name}"):
        pretrain(pretrain_settings(packed, run))
    assert contents(run) == before
