"""Settings in a TOML file: strict, and of the types that the config asks for."""

from pathlib import Path

import pytest

from pipeline.errors import WrongUse
from pipeline.settings.toml_file import from_toml
from pipeline.settings.training import DistillConfig, PretrainConfig


def settings(folder: Path, text: str, config: type = DistillConfig) -> dict[str, object]:
    path = folder / "settings.toml"
    path.write_text(text)
    return from_toml(config, path)


def test_values_come_with_their_types(tmp_path: Path) -> None:
    text = 'student = "alexnet"\nlr = 1\nepochs = 3\ncompile = true\ncrop-scale = [0.2, 1]\n'
    assert settings(tmp_path, text) == {
        "student": "alexnet",
        "lr": 1.0,
        "epochs": 3,
        "compile": True,
        "crop_scale": (0.2, 1.0),
    }


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="unknown setting 'epoch'; did you mean 'epochs'"):
        settings(tmp_path, "epoch = 3")


@pytest.mark.parametrize(
    "text",
    [
        'epochs = "3"',
        "epochs = 3.5",
        "epochs = true",
        "lr = nan",
        "lr = inf",
        "student = 1",
        "crop-scale = 0.5",
    ],
)
def test_a_wrong_type_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(WrongUse, match="expected"):
        settings(tmp_path, text)


@pytest.mark.parametrize("text", ["epochs =", "\x00"])
def test_what_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(WrongUse, match="cannot read the settings"):
        settings(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="cannot read the settings"):
        from_toml(PretrainConfig, tmp_path / "none.toml")
