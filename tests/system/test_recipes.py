"""Recipes hold valid settings of their commands, and the paper's recipes quote its numbers."""

import json
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import cli
from pipeline.evaluate.run import VOC_PROTOCOLS
from pipeline.models.students import STUDENTS, build_student
from pipeline.objectives.registry import OBJECTIVES, resolved
from pipeline.report import paper
from pipeline.settings import cache_commands
from pipeline.settings import commands as configs
from pipeline.settings.command_line import merged
from pipeline.settings.commands import PROTOCOLS
from pipeline.settings.plan import PlanConfig
from pipeline.settings.toml_file import from_toml, from_values
from pipeline.settings.training import DistillConfig, PretrainConfig
from pipeline.sweeps.recipe import read_recipe
from pipeline.teachers.registry import TEACHERS
from recipes.cifar10 import agreement

RECIPES = Path("recipes")
PAPER = RECIPES / "paper"
SHORT = {paper.MOCO: "moco", paper.SIMCLR: "simclr", paper.SWAV: "swav"}
ROWS = {
    f"{SHORT[row.teacher]}-{row.student}-{row.objective}": row
    for row in paper.ROWS
    if row.objective != paper.TEACHER
}
TWO_QUEUES, MOMENTUM, LIVE = "moco-resnet18-2q", "moco-resnet18-2q-momentum0", "moco-resnet18-2q-live"
RUNS = ROWS | dict.fromkeys((MOMENTUM, LIVE), ROWS[TWO_QUEUES])
SWEEPS = {"ablation-temperature": ("tau", paper.TAU), "ablation-anchors": ("anchors", paper.ANCHORS)}
# training times stated in the paper, by (teacher, student)
COST = {
    (paper.SIMCLR, "resnet50"): "100 h on four Titan RTX",
    (paper.MOCO, "resnet18"): "90 h on two RTX 2080 Ti",
}
SETTINGS = {
    "pack": configs.PackConfig,
    "cache-teacher": cache_commands.CacheTeacherConfig,
    "distill": DistillConfig,
    "eval": configs.EvalConfig,
    "sweep": configs.SweepConfig,
    "report": configs.ReportConfig,
}


def head(name: str) -> str:
    lines = (PAPER / f"{name}.toml").read_text().splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if re.match("# [^ ]", line))


def commands(path: Path) -> list[tuple[str, Any]]:
    """Return the commands in a recipe's head, each with the settings that it runs with."""
    found = []
    for line in re.findall(r"^#   python cli\.py (.+)$", path.read_text(), re.MULTILINE):
        name, *arguments = shlex.split(line)
        with cli.main.commands[name].make_context(name, arguments) as context:
            found.append((name, SETTINGS[name](**merged(SETTINGS[name], context.params))))
    return found


def metrics_path(name: str) -> dict[str, float]:
    row = paper.paper_row(RUNS[name].teacher, RUNS[name].student, RUNS[name].objective)
    assert row is not None
    return dict(row.metrics)


def test_every_row_of_the_paper_has_a_recipe() -> None:
    assert len(ROWS) == 32, "31 cells of Table 1 that are no teacher's, and SimCLR's AlexNet"
    assert {path.stem for path in PAPER.iterdir()} == {*RUNS, *SWEEPS}


@pytest.mark.parametrize("name", RUNS)
def test_the_numbers_are_the_papers(name: str) -> None:
    found, text = metrics_path(name), head(name)
    assert f"linear {found['linear']}, NN {found['nn1']}, CA {found['ca']}." in text
    lines = {
        "linear@places": "Places by the best layer: linear {linear@places}.",
        "voc": "PASCAL VOC 2007: classification {voc}, detection {voc_detection} mAP.",
        "few1pct": "Few labels, top-1: 1 % {few1pct}, 10 % {few10pct}.",
    }
    for metric, line in lines.items():
        assert (line.partition(":")[0] in text) is (metric in found)
        assert metric not in found or re.sub(r"{(.+?)}", lambda key: str(found[key[1]]), line) in text


@pytest.mark.parametrize("name", [TWO_QUEUES, LIVE])
def test_cached_and_live_both_stand_where_they_are_compared(name: str) -> None:
    for numbers in (paper.CACHED, paper.LIVE):
        assert f"linear {numbers['linear']}, NN {numbers['nn1']}" in head(name)
    assert dict(commands(PAPER / f"{name}.toml"))["distill"].live_teacher is (name == LIVE)


@pytest.mark.parametrize("name", RUNS)
def test_hours_are_those_of_the_papers_own_method_or_not_stated(name: str) -> None:
    row = RUNS[name]
    known = row.objective in ("1q", "2q") and name != MOMENTUM
    hours = COST.get((row.teacher, row.student), "not stated") if known else "not stated"
    assert re.findall(r"Hours and hardware: (.+?)\.", head(name)) == [hours]


@pytest.mark.parametrize("name", RUNS)
def test_the_commands_lead_from_images_to_the_rows_model(name: str) -> None:
    found, row = commands(PAPER / f"{name}.toml")[:4], RUNS[name]
    assert [command for command, _ in found] == ["pack", "cache-teacher", "distill", "eval"]
    pack, cached, distilled, evaluated = (settings for _, settings in found)
    assert pack.out == cached.dataset == distilled.dataset == evaluated.dataset
    assert cached.cache == distilled.cache
    assert evaluated.targets == (distilled.run,) == (Path("runs") / name,)
    assert cached.teacher == row.teacher
    assert str(cached.weights) == str(TEACHERS[row.teacher].weights).split()[0]
    assert (distilled.student, distilled.objective) == (row.student, row.objective)
    assert row.student in STUDENTS


@pytest.mark.parametrize("name", RUNS)
def test_the_evaluations_are_those_of_the_rows_numbers(name: str) -> None:
    found, path = metrics_path(name), PAPER / f"{name}.toml"
    own, *others = [settings for command, settings in commands(path) if command == "eval"]
    few = ("few-label",) if "few1pct" in found else ()
    assert own.protocol == ("nn", "linear", "ca", *few)
    assert own.features == "augmented", "the paper's linear probe sees random crops"
    assert not few or own.labels == ("1pct", "10pct")
    if name in ROWS:
        wanted = ["linear"] * ("linear@places" in found) + ["voc", "voc-detection"] * ("voc" in found)
        assert [protocol for settings in others for protocol in settings.protocol] == wanted
        assert all(protocol in (*PROTOCOLS, *VOC_PROTOCOLS) for protocol in wanted)


@pytest.mark.parametrize("name", RUNS)
def test_only_what_differs_from_the_defaults_is_set(name: str) -> None:
    path = PAPER / f"{name}.toml"
    config = resolved(dict(commands(path))["distill"])
    plain = resolved(
        DistillConfig(dataset=config.dataset, cache=config.cache, run=config.run, objective=config.objective)
    )
    assert {"student", "objective"} <= {*from_toml(DistillConfig, path)}
    for key in {*from_toml(DistillConfig, path)} - {"student", "objective"}:
        assert getattr(config, key) != getattr(plain, key), key


def test_the_settings_that_the_paper_states() -> None:
    runs = {name: resolved(dict(commands(PAPER / f"{name}.toml"))["distill"]) for name in RUNS}
    assert {name for name, config in runs.items() if config.momentum == 0} == {MOMENTUM}
    heads = {name: config.head_dim for name, config in runs.items() if config.head_dim}
    assert heads == {"simclr-resnet50-2q": TEACHERS[paper.SIMCLR].dim}
    others = {"cc": (100, 256, 0.1, 1e-4, "step-30-60-80"), "crd": (130, 64, 0.05, 5e-4, "step")}
    for name, config in runs.items():
        if config.objective != "supervised":
            expected = others.get(config.objective, (130, 256, 0.01, 1e-4, "step"))
            if name == "moco-mobilenet_v2-crd":
                expected = (130, 64, 0.01, 5e-4, "step")
            assert (config.epochs, config.batch_size, config.lr, config.wd, config.schedule) == expected
            assert config.optimizer == ("nesterov" if config.objective == "cc" else "sgd")


@pytest.mark.parametrize("name", SWEEPS)
def test_an_ablation_runs_the_points_of_the_papers_plot(name: str) -> None:
    key, known = SWEEPS[name]
    recipe, path = read_recipe(PAPER / f"{name}.toml"), PAPER / f"{name}.toml"
    assert [float(trial.settings[key]) for trial in recipe.trials] == list(known)
    assert {trial.settings["subset"] for trial in recipe.trials} == {0.25}
    assert {trial.settings["objective"] for trial in recipe.trials} <= {*OBJECTIVES}
    assert ", ".join(f"{value} {number}" for value, number in known.items()) + "." in head(name)
    pack, cached, swept, reported = (settings for _, settings in commands(path))
    assert (pack.out, cached.dataset, cached.cache) == (recipe.dataset, recipe.dataset, recipe.cache)
    assert (swept.recipe, reported.targets) == (path, (path,))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.toml")), ids=str)
def test_every_recipe_is_settings_of_its_command(path: Path) -> None:
    if "cache" in tomllib.loads(path.read_text()):
        for trial in read_recipe(path).trials:
            if trial.command == "distill":
                places = dict.fromkeys(("dataset", "cache", "run"), path)
                values = from_values(DistillConfig, trial.settings, trial.name)
                resolved(replace(DistillConfig(**places), **values))
    else:
        command = DistillConfig if path.stem not in ("pretrain", "teacher") else PretrainConfig
        command = PlanConfig if path.parent.name == "plans" else command
        assert from_toml(command, path)


def test_the_readme_leads_to_every_recipe_with_the_papers_numbers() -> None:
    text = (RECIPES / "README.md").read_text()
    linked = re.findall(r"\]\((.+?\.toml)\)", text)
    assert {*linked} == {str(path.relative_to(RECIPES)) for path in RECIPES.glob("*/*.toml")}
    for row in paper.ROWS:
        numbers = " / ".join(str(row.metrics[metric]) for metric in ("linear", "nn1", "ca"))
        name = f"{SHORT[row.teacher]}-{row.student}-{row.objective}"
        linked_cell = f"[{numbers}](paper/{name}.toml)"
        assert (linked_cell if row.where == paper.MAIN and name in ROWS else numbers) in text


def test_the_small_student_gives_128_features_at_the_sizes_of_the_recipes() -> None:
    student = build_student("recipes.cifar10.student:resnet10", image_size=32, seed=0)
    assert student.dim == 128
    assert student(torch.zeros(2, 3, 24, 24)).shape == (2, 128)


def test_agreement_is_the_rank_correlation_of_the_rows_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        "one": {"a": [0.5, 0.7], "b": [0.4], "untrained": [0.3]},
        "two": {"a": [0.9], "b": [0.1], "untrained": [0.2], "d": [0]},
    }
    for folder, rows in found.items():
        (tmp_path / folder).mkdir()
        for name, values in rows.items():
            for seed, value in enumerate(values):
                student = {"student": "s"} if folder == "two" else {}
                shown = f"s {name}" if student else name
                record = {"name": shown, "metrics": {"nn1": value}, "settings": student}
                (tmp_path / folder / f"{name}-seed{seed}-s.json").write_text(json.dumps(record))
    agreement.main(tmp_path / "one", tmp_path / "two")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["a", "60.0", "90.0"],
        ["untrained", "30.0", "20.0"],
        ["b", "40.0", "10.0"],
    ]
    # ranks 3 2 1 against 3 1 2: 1 - 6 * 2 / (3 * 8)
    assert lines[4:] == [
        "rank correlation 0.50 over 3 rows",
        "rank correlation 1.00 over 2 methods",
    ]
