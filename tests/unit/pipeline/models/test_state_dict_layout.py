"""Tensor names of published files: each loads, and a missing, foreign or changed name is reported."""

from collections.abc import Callable
from functools import cache
from itertools import cycle
from pathlib import Path

import pytest
import torch

from pipeline.models.backbone import Recipe
from pipeline.models.state_dict_layout import best_reading, unwrapped
from pipeline.models.weights_file import open_weights
from pipeline.teachers.checkpoint_layouts import COMPRESS_ALEXNET, DINOV2_SWIGLU, FLAT_NAMES
from pipeline.teachers.published import PUBLISHED
from tests.support.published_files import CASES, Held, State


@cache
def recipe_of(name: str) -> Recipe:
    return PUBLISHED[name].recipe()


def problems(name: str, held: Held, folder: Path) -> dict[str, list[str]]:
    torch.save(held, folder / "w.pth")
    own, state = recipe_of(name).module.state_dict(), open_weights(folder / "w.pth").state
    return best_reading(recipe_of(name).layouts, state, own).problems


@pytest.mark.parametrize(("name", "file"), CASES)
def test_each_known_file_fits_and_one_wrong_name_does_not(
    name: str, file: Callable[[State], Held], tmp_path: Path
) -> None:
    state = dict(recipe_of(name).module.state_dict())
    assert problems(name, file(state), tmp_path) == {}
    first, last = next(iter(state)), list(state)[-2]
    rest = {key: tensor for key, tensor in state.items() if key != first}
    assert problems(name, file(rest), tmp_path) == {"missing": [first]}
    reshaped = {**state, last: torch.zeros(7, device="meta")}
    ((kind, (told,)),) = problems(name, file(reshaped), tmp_path).items()
    assert (kind, told.split()[0]) == ("of another shape", last)


EXTRA = ["fc.1.weight", "conv1.bias", "head.mlp.x.weight", "queue_x", "conv2d_53.weight"]


@pytest.mark.parametrize(
    ("name", "file", "extra"), [(*case, extra) for case, extra in zip(CASES, cycle(EXTRA))]
)
def test_a_name_that_no_head_has_is_told(
    name: str, file: Callable[[State], Held], extra: str, tmp_path: Path
) -> None:
    held = file(dict(recipe_of(name).module.state_dict()))
    state = next((held[key] for key in ("state_dict", "model", "teacher") if key in held), held)
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    state[prefix + extra] = torch.zeros(2, device="meta")
    ((kind, (told,)),) = problems(name, held, tmp_path).items()
    assert (kind, told.split(" ")[0]) == ("unexpected", extra)


def test_a_networks_own_name_without_the_files_prefix_is_foreign(tmp_path: Path) -> None:
    state = dict(recipe_of("moco_v2_resnet50").module.state_dict())
    held = {f"encoder_q.{key}": tensor for key, tensor in state.items()}
    held["conv1.weight"] = held.pop("encoder_q.conv1.weight")
    found = problems("moco_v2_resnet50", held, tmp_path)
    assert found == {
        "missing": ["conv1.weight"],
        "unexpected": ["conv1.weight (no name of MoCo's query encoder)"],
    }


@pytest.mark.parametrize(
    ("layout", "name"),
    [(DINOV2_SWIGLU, "blocks.3.mlp.fc1.weight"), (COMPRESS_ALEXNET, "classifier.1.weight")],
)
def test_no_two_names_become_one(layout, name: str) -> None:
    assert list(layout.rename_all({name: torch.zeros(1)})) == [f"{name} (no name of {layout.title})"]


def test_flat_names_are_numbered_as_the_layers_were_made() -> None:
    # the stages' convolutions are 1-10, 11-23, 24-42 and 43-52, and each stage begins with its downsampling
    assert len(FLAT_NAMES) == 2 * 53
    assert len(set(FLAT_NAMES.values())) == 2 * 53
    expected = {
        "conv2d": "conv1",
        "conv2d_1": "layer1.0.downsample.0",
        "conv2d_2": "layer1.0.conv1",
        "conv2d_4": "layer1.0.conv3",
        "conv2d_5": "layer1.1.conv1",
        "conv2d_10": "layer1.2.conv3",
        "conv2d_11": "layer2.0.downsample.0",
        "conv2d_24": "layer3.0.downsample.0",
        "conv2d_43": "layer4.0.downsample.0",
        "conv2d_52": "layer4.2.conv3",
        "batch_normalization": "bn1",
        "batch_normalization_11": "layer2.0.downsample.1",
        "batch_normalization_52": "layer4.2.bn3",
    }
    assert {flat: FLAT_NAMES[flat] for flat in expected} == expected


def test_every_listed_width_is_the_networks() -> None:
    last = (
        "layer4.2.bn3.weight",
        "layer4.1.bn2.weight",
        "norm.weight",
        "features.18.1.weight",
        "classifier.4.weight",
    )
    for name, entry in PUBLISHED.items():
        state = recipe_of(name).module.state_dict()
        assert len(next(state[key] for key in last if key in state)) == entry.dim, name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["conv.weight", "fc.bias"], {"": ["conv.weight", "fc.bias"]}),
        (["_orig_mod.conv.weight", "_orig_mod.fc.bias"], {"_orig_mod.": ["conv.weight", "fc.bias"]}),
        (
            ["model._orig_mod.module.conv.weight", "model._orig_mod.module.fc.bias"],
            {"model._orig_mod.module.": ["conv.weight", "fc.bias"]},
        ),
        (["conv._orig_mod.weight", "fc.bias"], {"_orig_mod.": ["conv.weight", "fc.bias"]}),
        (
            ["_orig_mod.net.conv._orig_mod.weight", "_orig_mod.net.fc.bias"],
            {"_orig_mod.net.": ["conv.weight", "fc.bias"]},
        ),
        (["_orig_mod.a.b", "a.b"], {"": ["_orig_mod.a.b", "a.b"]}),
        (["a", "b.c"], {"": ["a", "b.c"]}),
    ],
)
def test_wrapping_prefixes_are_removed_one_after_another(
    names: list[str], expected: dict[str, list[str]]
) -> None:
    tensors = {name: torch.tensor(place) for place, name in enumerate(names)}
    found = dict(unwrapped(tensors))
    assert expected.items() <= {prefix: list(state) for prefix, state in found.items()}.items()
    assert all(list(state.values()) == list(tensors.values()) for state in found.values())
    assert list(found) == sorted(found, key=len)
