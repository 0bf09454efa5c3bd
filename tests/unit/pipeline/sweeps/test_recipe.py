"""A recipe expands to trials, and a wrong one is refused before anything runs."""

from pathlib import Path

import pytest

from pipeline.errors import WrongUse
from pipeline.sweeps.recipe import flags, read_recipe

HEAD = 'dataset = "d"\ncache = "c.zarr"\nruns = "r"\n'


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(HEAD + text)
    return path


def test_every_row_at_every_point_of_the_grid_a_column_at_a_time(tmp_path: Path) -> None:
    path = recipe(
        tmp_path,
        "[settings]\nepochs = 3\n[grid]\nseed = [0, 1]\nstudent = ['resnet18', 'timm/resnet26']\n"
        "[[row]]\nobjective = '1q'\n[[row]]\nname = 'from scratch'\ncommand = 'pretrain'\n",
    )
    trials = read_recipe(path).trials
    assert [trial.name for trial in trials] == [
        "1q-seed0-resnet18",
        "from-scratch-seed0-resnet18",
        "1q-seed0-timm-resnet26",
        "from-scratch-seed0-timm-resnet26",
        "1q-seed1-resnet18",
        "from-scratch-seed1-resnet18",
        "1q-seed1-timm-resnet26",
        "from-scratch-seed1-timm-resnet26",
    ]
    assert trials[0].row == trials[4].row == "resnet18 1q", "seeds of one row share its line"
    assert trials[1].command == "pretrain"
    assert trials[0].settings == {"epochs": 3, "seed": 0, "student": "resnet18", "objective": "1q"}


def test_a_grid_of_numbers_is_told_apart_by_its_keys(tmp_path: Path) -> None:
    path = recipe(
        tmp_path, "[grid]\ntau = [0.02, 0.04]\nlive-teacher = [false, true]\n[[row]]\nname = '1q'\n"
    )
    names = [trial.row for trial in read_recipe(path).trials]
    assert names == ["tau0.02 1q", "tau0.02 live-teacher 1q", "tau0.04 1q", "tau0.04 live-teacher 1q"]


def test_a_row_wins_over_the_grid_and_the_grid_over_the_settings(tmp_path: Path) -> None:
    path = recipe(
        tmp_path,
        "[settings]\nepochs = 3\nlr = 0.1\n[grid]\nlr = [0.2]\n[[row]]\nname = 'a'\n[[row]]\nname = 'b'\nlr = 0.3\n",
    )
    assert [trial.settings["lr"] for trial in read_recipe(path).trials] == [0.2, 0.3]


def test_a_row_may_have_a_cache_of_its_own(tmp_path: Path) -> None:
    text = "[settings]\nepochs = 3\n[[row]]\nname = 'a'\n[[row]]\nname = 'b'\ncache = 'other.zarr'\n"
    one, two = read_recipe(recipe(tmp_path, text)).trials
    assert (one.cache, two.cache) == (None, Path("other.zarr"))
    assert (one.recorded, two.recorded) == ({"epochs": 3}, {"epochs": 3, "cache": "other.zarr"})
    assert two.settings == {"epochs": 3}
    with pytest.raises(WrongUse, match="expected a string for 'cache'"):
        read_recipe(recipe(tmp_path, "[[row]]\nname = 'b'\ncache = 3\n"))


def test_an_objective_that_is_called_seed_is_no_seed(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[grid]\nobjective = ['1q', 'seed']\nseed = [0]\n[[row]]\nname = 'x'\n")
    assert [trial.row for trial in read_recipe(path).trials] == ["1q x", "seed x"]


@pytest.mark.parametrize(
    ("references", "names"),
    [
        (["x/c.zarr"], ["c"]),
        (["v.s"], ["v"]),
        (["v.s", "v.b"], ["v.s", "v.b"]),
        (["x/c.zarr", "y/c.zarr"], ["x-c.zarr", "y-c.zarr"]),
        (["c.zarr", "./c.zarr"], ["c"]),
        (["1q.zarr"], ["1q.zarr"]),  # a trial is called 1q
    ],
)
def test_no_two_references_or_trials_share_a_file(
    tmp_path: Path, references: list[str], names: list[str]
) -> None:
    found = read_recipe(recipe(tmp_path, f"references = {references}\n[[row]]\nname = '1q'\n"))
    assert [found.reference_path(store).name for store in found.references] == [f"{n}.json" for n in names]


def test_results_stand_beside_the_runs_unless_said(tmp_path: Path) -> None:
    assert read_recipe(recipe(tmp_path, "")).results == Path("r/results")
    assert read_recipe(recipe(tmp_path, "results = 'docs/x'\n")).results == Path("docs/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[row]]\nname = 'results'\n", "as the folder of the results"),
        ("runz = 'x'\n", "unknown key 'runz'; did you mean 'runs'"),
        ("[settings]\nepoch = 3\n", "unknown setting 'epoch'; did you mean 'epochs'"),
        ("[settings]\nepochs = 'three'\n", "epochs: expected an integer"),
        ("[grid]\nseed = 3\n", "expected a list of values for 'seed'"),
        ("[grid]\nseed = []\n", "expected a list of values for 'seed'"),
        ("[[row]]\ncommand = 'destill'\n", "distill or pretrain"),
        ("[[row]]\nname = 'x'\n[[row]]\nname = 'x'\n", "two trials are named 'x'"),
        ("[[row]]\ncommand = 'pretrain'\ntau = 0.1\nobjective = '1q'\n", "unknown setting 'objective'"),
        ("row = 3\n", "expected a list for 'row'"),
        ("protocol = 'nn'\n", "expected a list for 'protocol'"),
        ("protocol = ['nn', 'linaer']\n", "found 'linaer'; did you mean 'linear'"),
        (
            "protocol = ['transfer']\n",
            "expected some of nn, linear, ca, few-label, fidelity, found 'transfer'",
        ),
        ("= 3\n", "cannot read the recipe"),
        ("[[row]]\nname = '..'\n", "a row is named '..', which cannot be a folder's name"),
        ("[[row]]\nname = ''\n", "a row is named '', which cannot be a folder's name"),
        (
            "[grid]\ncache = ['a.zarr']\n",
            "distill: 'cache' is not a setting: .* a .* may have a cache of its own",
        ),
        ("[settings]\nrun = 'x'\n", "distill: 'run' is not a setting"),
        ("[settings]\ntau = -1.0\n", "distill: --tau: expected a number of at least 0"),
        (
            "[settings]\nschedule = 'cosin'\n",
            "distill: --schedule: expected .*, found 'cosin'; did you mean 'cosine'",
        ),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        read_recipe(recipe(tmp_path, text))


def test_a_recipe_without_a_cache_or_without_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half.toml").write_text('dataset = "d"\nruns = "r"\n')
    with pytest.raises(WrongUse, match="expected a string for 'cache'"):
        read_recipe(tmp_path / "half.toml")
    with pytest.raises(WrongUse, match="cannot read the recipe"):
        read_recipe(tmp_path / "none.toml")


def test_settings_become_flags() -> None:
    settings = {"image_size": 32, "crop-scale": [0.25, 1.0], "compile": True, "live-teacher": False}
    assert flags(settings) == ["--image-size", "32", "--crop-scale", "0.25", "1.0", "--compile"]
    assert flags({"objective-args": ["tau=1", "head=mlp"]}) == ["--objective-args", "tau=1,head=mlp"]
