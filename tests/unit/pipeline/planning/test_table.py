"""The plan as text: on the terminal, in Markdown and in the documents."""

import json
from pathlib import Path

import pytest

import cli
from pipeline.planning.table import compute_plan, human_time, markdown
from pipeline.settings.plan import PlanConfig
from pipeline.settings.toml_file import from_toml


def test_the_command_prints_writes_and_gives_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "plan",
        "--images",
        "1000",
        "--picture-bytes",
        "3000",
        "--teacher",
        "demo",
        "--image-size",
        "32",
    ]
    command += ["--rate", "1000", "--gpus", "1", "--batch-size", "100"]
    assert cli.run_cli(command) == 0
    shown = capsys.readouterr().out
    assert "break-even: epoch" in shown
    assert "A training step computes for" in shown
    assert "Not measured on a GPU, assumed: TF32 products at 44 TFLOP/s" in shown
    assert (
        "demo 0.22 (timm's efficientnet_lite0) forward, resnet18 1.27 (timm's resnet18) in training" in shown
    )
    assert cli.run_cli([*command, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["images"] == 1000
    assert set(plan["step"]) == {"student", "loss"}
    assert len(plan["assumptions"]) == 3
    page = tmp_path / "page.md"
    page.write_text("<!-- results:plan -->\n<!-- /results:plan -->\n")
    assert cli.run_cli([*command, "--out", str(page)]) == 0
    assert "--rate 1000" in page.read_text()
    assert "| time |" in page.read_text()


@pytest.mark.parametrize("path", sorted(Path("recipes/plans").iterdir()), ids=lambda path: path.stem)
def test_the_documents_show_the_plans_of_the_recipes(path: Path) -> None:
    config = PlanConfig(**from_toml(PlanConfig, path))
    page = Path("docs/scaling.md").read_text()
    written = page.partition(f"<!-- results:plan-{path.stem} -->\n")[2].partition("\n<!-- /results")[0]
    assert written == markdown(config, compute_plan(config)).strip(), "run `make readme`"


def test_time_has_the_unit_that_fits() -> None:
    assert [human_time(seconds) for seconds in (59.0, 90.0, 5400.0, 86400.0 * 2.5)] == [
        "59 s",
        "1.5 minutes",
        "1.5 hours",
        "2.5 days",
    ]
