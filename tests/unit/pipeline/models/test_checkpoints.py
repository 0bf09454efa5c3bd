import errno
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cache.errors import StoreError
from pipeline.errors import PipelineError
from pipeline.models.checkpoints import (
    load_optimizer,
    load_resume,
    load_safetensors,
    load_strictly,
    save_resume,
    save_safetensors,
    weights_sha256,
)
from pipeline.models.student_file import load_run_student, save_student
from pipeline.models.students import build_student
from tests.support import tiny_teacher


def small_module(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6.0).view(2, 3).T,
        "b": torch.tensor(3),
        "c": torch.zeros(2, dtype=torch.float16),
    }
    save_safetensors(tmp_path / "new" / "x.safetensors", tensors, {"who": "me", "why": "ä 'quote'"})
    found, metadata = load_safetensors(tmp_path / "new" / "x.safetensors")
    assert metadata == {"who": "me", "why": "ä 'quote'"}
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.safetensors"]


def test_the_same_content_has_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from pipeline.models.checkpoints import save_safetensors;"
        "save_safetensors(Path(sys.argv[1]), {'w': torch.ones(2)}, {k: k for k in 'abcdefgh'})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "theirs")], check=True)
    save_safetensors(tmp_path / "ours", {"w": torch.ones(2)}, {k: k for k in "hgfedcba"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_another_programs_metadata_is_read_as_it_is(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert load_safetensors(tmp_path / "x.safetensors")[1] == {"format": "pt"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    save_resume(path, {"step": 1})

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StoreError, match=r"cannot write .*state\.pt: No space left"):
        save_resume(path, {"step": 2})
    assert load_resume(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage"])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    if name.endswith(".pt"):
        save_resume(path, {"w": torch.ones(100)})
    else:
        save_safetensors(path, {"w": torch.ones(100)}, {})
    whole = path.read_bytes()
    content = {"empty": b"", "truncated": whole[: len(whole) // 2], "garbage": b"not a checkpoint " * 9}
    path.unlink() if damage == "missing" else path.write_bytes(content[damage])
    with pytest.raises(
        PipelineError, match=r"x\.(safetensors|pt) (does not exist|is damaged|is not a weights file)"
    ):
        load_resume(path) if name.endswith(".pt") else load_safetensors(path)


def test_resume_state_is_exact(tmp_path: Path) -> None:
    module = small_module()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.rand(5, 3)).sum().backward()
    optimiser.step()
    state = {
        "optimiser": optimiser.state_dict(),
        "rng": torch.get_rng_state(),
        "epoch": 3,
        "losses": [1.5, 0.1],
    }
    save_resume(tmp_path / "resume.pt", state)
    found = load_resume(tmp_path / "resume.pt")
    assert torch.equal(found["rng"], state["rng"])
    assert (found["epoch"], found["losses"]) == (3, [1.5, 0.1])
    for index, own in state["optimiser"]["state"].items():
        assert torch.equal(found["optimiser"]["state"][index]["momentum_buffer"], own["momentum_buffer"])


def test_a_pickle_of_anything_else_is_not_opened(tmp_path: Path) -> None:
    torch.save({"opt": Namespace(lr=1)}, tmp_path / "x.pt")
    with pytest.raises(PipelineError, match="holds more than tensors and plain values"):
        load_resume(tmp_path / "x.pt")


def test_strict_loading_names_everything_that_does_not_fit() -> None:
    state = small_module().state_dict()
    state["2.weight"] = torch.zeros(2, 5)
    state["extra"] = torch.zeros(1)
    del state["0.bias"]
    target = small_module(1)
    before = weights_sha256(target)
    with pytest.raises(PipelineError) as caught:
        load_strictly(target, state, "thing.pt")
    assert str(caught.value) == (
        "the weights of thing.pt do not fit its architecture; missing: 0.bias; unexpected: extra; "
        "of another shape: 2.weight (expected (2, 4), found (2, 5))"
    )
    assert weights_sha256(target) == before


def test_strict_loading_loads(tmp_path: Path) -> None:
    source, target = small_module(0), small_module(1)
    state = dict(source.state_dict())
    del state["1.num_batches_tracked"]  # absent from files written before torch 0.4.1
    load_strictly(target, state, "x")
    assert weights_sha256(source) == weights_sha256(target)


def test_the_hash_sees_one_bit_a_name_and_a_shape() -> None:
    module, bit, reshaped = torch.nn.Module(), torch.nn.Module(), torch.nn.Module()
    module.register_buffer("w", torch.zeros(2, 3))
    bit.register_buffer("w", torch.zeros(2, 3).index_fill(0, torch.tensor([1]), -0.0))
    reshaped.register_buffer("w", torch.zeros(3, 2))
    hashes = {weights_sha256(one) for one in (module, bit, reshaped)}
    assert len(hashes) == 3


def test_a_students_file_says_what_it_is(tmp_path: Path) -> None:
    student = build_student("resnet18", image_size=32, seed=1)
    save_student(tmp_path, student, {"objective": "1q"})
    tensors, metadata = load_safetensors(tmp_path / "student.safetensors")
    assert set(tensors) == set(student.network.state_dict())
    assert json.loads(metadata.pop("mean")) == [0.485, 0.456, 0.406]
    assert json.loads(metadata.pop("std")) == [0.229, 0.224, 0.225]
    assert metadata == {
        "student": "resnet18",
        "image_size": "32",
        "dim": "512",
        "feature": "global average pool",
        "objective": "1q",
    }


def test_a_students_own_code_is_recorded_and_a_change_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tests.support.tiny_teacher:convolutional"
    student = build_student(name, image_size=32, seed=1)
    save_student(tmp_path, student, {})
    assert load_safetensors(tmp_path / "student.safetensors")[1]["code"] == student.code
    assert load_run_student(tmp_path).code == student.code
    assert capsys.readouterr().err == ""
    before, plain = load_run_student(tmp_path).identity(), tiny_teacher.convolutional

    def edited() -> torch.nn.Module:
        module = plain()
        module[0].stride = (1, 1)
        return module

    monkeypatch.setattr(tiny_teacher, "convolutional", edited)
    assert load_run_student(tmp_path).identity() != before
    assert f"the code of {name} is not the code that" in capsys.readouterr().err


def trained(
    shape: tuple[int, ...], kind: type[torch.optim.Optimizer], **options: float
) -> torch.optim.Optimizer:
    """After one step, so that it has a state."""
    parameter = torch.nn.Parameter(torch.ones(shape))
    optimizer = kind([parameter], lr=0.1, **options)
    parameter.sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimisers_state_is_loaded_if_it_is_its_own(kind: type[torch.optim.Optimizer]) -> None:
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    own, other = trained((2, 3), kind, **options), trained((2, 3), kind, **options)
    other.step()
    load_optimizer(own, other.state_dict())
    assert str(own.state_dict()) == str(other.state_dict())
    with pytest.raises(ValueError, match=r"of a parameter: expected \(2, 3\), found \(3, 2\)"):
        load_optimizer(own, trained((3, 2), kind, **options).state_dict())


def test_another_optimisers_state_is_refused() -> None:
    with pytest.raises(ValueError, match="the state of another optimizer"):
        load_optimizer(
            trained((2,), torch.optim.SGD, momentum=0.9), trained((2,), torch.optim.AdamW).state_dict()
        )


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_pointer_of_git_lfs_is_called_so(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(PipelineError, match=f"x.{suffix} is a Git LFS pointer, not the file"):
        load_safetensors(path) if suffix == "safetensors" else load_resume(path)
