import errno
import hashlib
import json
import os
import subprocess
import sys
import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cache.errors import StoreError
from pipeline.errors import PipelineError
from pipeline.models.checkpoints import (
    check_sha256,
    join_names,
    load_optimizer,
    load_resume,
    load_safetensors,
    load_state,
    load_strictly,
    open_weights,
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


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_are_about_tensors_not_files(tmp_path: Path, prefix: str, wrapped: bool, suffix: str) -> None:
    module = small_module()
    state = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_safetensors(path, state, {})
    else:
        torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    target = small_module(1)
    assert weights_sha256(target) != weights_sha256(module)
    load_strictly(target, load_state(path), "w")
    assert weights_sha256(target) == weights_sha256(module)


@pytest.mark.parametrize("place", ["state_dict", "model", "teacher"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_training_checkpoint_with_its_options_is_opened(tmp_path: Path, place: str, legacy: bool) -> None:
    held = {"opt": Namespace(lr=0.1, names=["a"]), place: {"module.w": torch.ones(2)}, "epoch": 130}
    torch.save(held, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=not legacy)
    file = open_weights(tmp_path / "w.pth.tar")
    assert (file.key, file.prefix, list(file.state)) == (place, "module.", ["w"])


class Touching:
    """Makes a file when it is unpickled: what a hostile checkpoint would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, hidden: bool, legacy: bool
) -> None:
    trap, path = tmp_path / "trap", tmp_path / "w.pth"
    evil = Namespace(arch=Touching(trap)) if hidden else Touching(trap)
    held = {"opt": evil, "model": {"w": torch.ones(2)}}
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        PipelineError, match=r"w\.pth holds more than tensors .* a pickled posix\.mkdir, which is not"
    ):
        load_state(path)
    assert not trap.exists()
    # the trap is real: an ordinary unpickling springs it
    torch.load(path, weights_only=False)
    assert trap.exists()


STATE = {"w": torch.ones(2)}


@pytest.mark.parametrize(
    ("held", "key"),
    [
        ({"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}}, "model_state_dict"),
        ({"epoch": 3, "net": STATE}, "net"),
        ({"anything": STATE, "step": np.int64(3), "best": np.float64(0.5)}, "anything"),
        (
            {"classy": {"base_model": {"trunk": STATE}}, "optimizer": {"0": {"exp_avg": torch.ones(2)}}},
            "classy.base_model.trunk",
        ),
        ({"state_dict": STATE, "state_dict_ema": STATE}, "state_dict"),
        ({"model": {"state_dict": STATE}}, "model.state_dict"),
    ],
)
def test_a_state_dict_is_found_where_training_scripts_put_it(
    tmp_path: Path, held: dict[str, object], key: str
) -> None:
    torch.save(held, tmp_path / "w.ckpt")
    file = open_weights(tmp_path / "w.ckpt")
    assert (file.key, list(file.state)) == (key, ["w"])


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            {"ema": STATE, "online": STATE},
            "holds several state dicts, under 'ema', 'online': write a file with the one",
        ),
        (
            {"epoch": 3, "net": {**STATE, "x": 3}},
            "'epoch': an int, 'net': a dict with 'x', which is no tensor",
        ),
        (torch.ones(2), "holds no state dict; .* found a Tensor"),
    ],
)
def test_what_is_no_single_state_dict_is_described(tmp_path: Path, held: object, message: str) -> None:
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(PipelineError, match=message):
        open_weights(tmp_path / "w.pt")


def test_a_program_is_named_and_no_advice_is_to_run_it(tmp_path: Path) -> None:
    path, module = tmp_path / "w.pt", small_module().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(module).save(path)
    with pytest.raises(PipelineError, match=r"w\.pt is a TorchScript program, not a state dict") as script:
        open_weights(path)
    torch.save(module, path)
    with pytest.raises(
        PipelineError, match=r"a pickled torch\..*Sequential, which is not loaded; save"
    ) as pickled:
        open_weights(path)
    assert not any("weights_only" in str(error.value) for error in (script, pickled))


def test_another_class_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "path": tmp_path}, tmp_path / "w.pth")
    with pytest.raises(PipelineError, match=r"a pickled pathlib\.PosixPath, which is not loaded"):
        load_state(tmp_path / "w.pth")


def test_a_published_name_holds_the_hash_of_the_file(tmp_path: Path) -> None:
    content = b"some weights"
    digest = hashlib.sha256(content).hexdigest()
    good, bad = tmp_path / f"resnet18-{digest[:8]}.pth", tmp_path / "resnet18-f37072fd.pth"
    good.write_bytes(content)
    bad.write_bytes(content)
    check_sha256(good)
    with pytest.raises(
        PipelineError, match=f"begins with f37072fd, but it begins with {digest[:8]}; download"
    ):
        check_sha256(bad)


def test_of_very_many_names_the_first_are_listed() -> None:
    assert join_names(["a", "b"]) == "a, b"
    assert join_names([str(number) for number in range(25)]).endswith("18, 19 and 5 more")


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert set(load_state(tmp_path / "w.pt")) == {"module.a", "b"}


def test_a_file_without_a_state_dict_is_a_sentence(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pt")
    with pytest.raises(PipelineError, match="holds no state dict"):
        load_state(tmp_path / "w.pt")


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
