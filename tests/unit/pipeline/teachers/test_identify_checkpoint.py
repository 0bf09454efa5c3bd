"""Which layout a file has: known files are named, near ones are told what is wrong, others their first keys."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision

import cli
from pipeline.errors import PipelineError
from pipeline.models.student_file import save_student
from pipeline.models.students import build_student
from pipeline.models.weights_file import open_weights
from pipeline.teachers import identify_checkpoint as module
from pipeline.teachers.identify_checkpoint import Fit, identify
from pipeline.teachers.published import PUBLISHED
from pipeline.teachers.registry import load_teacher
from tests.support.published_files import CASES, Held, State, bare, compress, with_classifier


@pytest.fixture(scope="module", autouse=True)
def built_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        known = list(module.registered_candidates())
        patch.setattr(module, "registered_candidates", lambda: iter(known))
        yield


def fits(held: Held, folder: Path) -> list[Fit]:
    torch.save(held, folder / "w.pth")
    return identify(open_weights(folder / "w.pth"), folder / "w.pth")


@cache
def names_only(teacher: str) -> State:
    return dict(PUBLISHED[teacher].recipe().module.state_dict())


# torchvision's names alone do not tell whose they are
TELLING = [(name, file) for name, file in CASES if file not in (bare, with_classifier)]


@pytest.mark.parametrize(("name", "file"), TELLING)
def test_a_known_file_is_known(name: str, file: Callable[[State], Held], tmp_path: Path) -> None:
    assert [fit.teacher for fit in fits(file(names_only(name)), tmp_path)] == [name]


def test_what_names_alone_cannot_tell_is_listed_whole(tmp_path: Path) -> None:
    (transformer,) = fits(names_only("dino_vits8"), tmp_path)
    assert transformer.teacher == "dino_vits8"
    classified = fits(with_classifier(names_only("simclr_resnet50x1")), tmp_path)
    assert {fit.teacher for fit in classified} == {"simclr_resnet50x1", "torchvision/resnet50"}
    assert all(fit.unused == ("fc.weight", "fc.bias") for fit in classified)


@pytest.mark.parametrize("name", ["vgg11", "vit_b_16", "googlenet", "regnet_y_400mf"])
def test_torchvisions_other_networks_are_known(name: str, tmp_path: Path) -> None:
    settings = {"init_weights": True} if name == "googlenet" else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        state = torchvision.models.get_model(name, weights=None, **settings).state_dict()
    assert [fit.teacher for fit in fits(state, tmp_path)] == [f"torchvision/{name}"]


def test_a_near_file_is_told_what_is_wrong(tmp_path: Path) -> None:
    state = dict(names_only("compress_resnet18"))
    state["layer1.0.conv9.weight"] = state.pop("conv1.weight")
    with pytest.raises(PipelineError) as caught:
        fits(compress(state), tmp_path)
    assert "closest is that of compress_resnet18" in str(caught.value)
    assert "missing: conv1.weight; unexpected: layer1.0.conv9.weight" in str(caught.value)


def test_a_file_of_no_known_layout_shows_its_first_keys(tmp_path: Path) -> None:
    torch.save({f"encoder.{place}.kernel": torch.zeros(1) for place in range(9)}, tmp_path / "w.pt")
    with pytest.raises(
        PipelineError, match=r"no known layout; the first of its 9 tensors are encoder\.0\.kernel, .*4"
    ):
        identify(open_weights(tmp_path / "w.pt"), tmp_path / "w.pt")


def test_the_command_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "it's.pth"
    torch.save(compress(names_only("compress_alexnet")), path)
    assert cli.run_cli(["teachers", "--check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 16 tensors under 'model'"
    assert any(line.startswith("compress_alexnet: AlexNet") for line in lines)
    assert any(line.split() == ["unused", "fc.weight,", "fc.bias"] for line in lines)
    assert any(
        line.endswith("--teacher compress_alexnet --weights '" + str(path).replace("'", "'\"'\"'") + "'")
        for line in lines
    )
    assert cli.run_cli(["teachers", "--check", str(tmp_path / "absent.pth")]) == 1
    assert "absent.pth does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "model.net."])
def test_what_is_advised_for_a_wrapped_file_works(
    prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, state = tmp_path / "w.pth", torchvision.models.mnasnet0_5(weights=None).state_dict()
    torch.save({"model_state_dict": {prefix + name: tensor for name, tensor in state.items()}}, path)
    assert cli.run_cli(["teachers", "--check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.split() == ["prefix", f"'{prefix}',", "removed", "from", "every", "name"] for line in lines
    )
    (advice,) = (line.split("CACHE.zarr ")[1] for line in lines if "cache-teacher" in line)
    assert advice == f"--teacher torchvision/mnasnet0_5 --weights {path}"
    assert load_teacher("torchvision/mnasnet0_5", path, image_size=32).dim == 1280


def test_a_student_of_this_project_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_student(tmp_path, build_student("resnet18", image_size=32, seed=1), {})
    assert cli.run_cli(["teachers", "--check", str(tmp_path / "student.safetensors")]) == 0
    assert "a student of this project, resnet18" in capsys.readouterr().out
