import hashlib
import os
import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.models.checkpoints import (
    join_names,
    load_strictly,
    save_safetensors,
    weights_sha256,
)
from pipeline.models.state_dict_layout import best_reading, own_names
from pipeline.models.weights_file import check_sha256, open_weights


def small_module(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


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
    reading = best_reading([own_names()], open_weights(path).state, target.state_dict())
    load_strictly(target, reading.tensors, "w")
    assert reading.prefix == prefix
    assert weights_sha256(target) == weights_sha256(module)


@pytest.mark.parametrize("place", ["state_dict", "model", "teacher"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_training_checkpoint_with_its_options_is_opened(tmp_path: Path, place: str, legacy: bool) -> None:
    held = {"opt": Namespace(lr=0.1, names=["a"]), place: {"module.w": torch.ones(2)}, "epoch": 130}
    torch.save(held, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=not legacy)
    file = open_weights(tmp_path / "w.pth.tar")
    assert (file.key, list(file.state)) == (place, ["module.w"])


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
        open_weights(path)
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
            "'epoch': an int, 'net': a dict with 'x', which is not a tensor",
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
    with pytest.raises(PipelineError, match=r"a pickled pathlib\.(_local\.)?PosixPath, which is not loaded"):
        open_weights(tmp_path / "w.pth")


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


def test_a_file_without_a_state_dict_is_a_sentence(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pt")
    with pytest.raises(PipelineError, match="holds no state dict"):
        open_weights(tmp_path / "w.pt")
