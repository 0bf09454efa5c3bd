"""Settings: strict TOML, and one default for flag, file and Python."""

from pathlib import Path

import pytest

from pipeline.config import DistillConfig, PretrainConfig, checked, from_toml, options
from pipeline.errors import WrongUse


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


@pytest.mark.parametrize("config", [DistillConfig, PretrainConfig])
def test_every_option_has_a_help_text(config: type) -> None:
    assert all(field.metadata["help"] for field in options(config))


PLACES = {"dataset": Path("d"), "cache": Path("c"), "run": Path("r")}


def test_the_defaults_and_the_ends_of_each_range_are_allowed() -> None:
    for changes in ({}, {"epochs": 0, "momentum": 1.0, "crop_scale": (1.0, 1.0), "seed": 2**32 - 1}):
        config = DistillConfig(**PLACES, **changes)
        assert checked(config) is config


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 2**32}, "--seed 4294967296: expected a number at least 0 and at most 4294967295"),
        ({"tau": float("nan")}, "--tau nan: expected a number that is finite"),
        ({"warmup": float("inf")}, "--warmup inf: expected a number at least 0"),
        ({"crop_scale": (0.2, 1.5)}, "--crop-scale 1.5: expected a number at least 0.001 and at most 1"),
        ({"optimizer": "adam"}, "--optimizer adam: expected sgd, adamw; did you mean 'adamw'?"),
    ],
)
def test_what_lies_beyond_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(WrongUse) as refusal:
        checked(DistillConfig(**PLACES, **changes))
    assert str(refusal.value) == sentence
