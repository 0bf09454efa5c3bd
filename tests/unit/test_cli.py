"""The command line: fast help, one-sentence errors with the right exit code, settings files."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import cli
from pipeline.runtime import run_command
from pipeline.settings.training import DistillConfig


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "cli.py", *map(str, arguments)], capture_output=True, text=True)


def invoke(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.run_cli([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "cli.py", "--help"], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in listed.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "numpy", "zarr", "ffcv", "faiss", "dask", "pyarrow", "PIL", "rich"})
    assert "cache-teacher" in listed.stdout


COMMANDS: dict[str, click.Command] = {
    **{name: command for name, command in cli.main.commands.items() if command is not cli.cache},
    **{f"cache {name}": command for name, command in cli.cache.commands.items()},
}


@pytest.mark.parametrize("group", [cli.main, cli.cache])
def test_the_help_lists_every_command_with_a_description(group: click.Group) -> None:
    text = CliRunner().invoke(group, ["--help"]).output
    for name, command in group.commands.items():
        assert re.search(rf"^  {name} +\w.*\w", text, re.MULTILINE)
        assert (command.help or "").partition("\n")[0].endswith(".")
    assert "..." not in text.partition("Commands:")[2]  # click cuts long ones


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_explains_itself(name: str) -> None:
    result: Result = CliRunner().invoke(cli.main, [*name.split(), "--help"])
    assert result.exit_code == 0
    description = (COMMANDS[name].help or "").partition("\n\n")[0]
    assert " ".join(description.split()) in " ".join(result.output.split())
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option):
            assert option.opts[0] in result.output
            assert len((option.help or "").split()) > 1, option.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_explained_above_the_options(name: str) -> None:
    """All but a choice, which the line of usage spells out."""
    text = CliRunner().invoke(cli.main, [*name.split(), "--help"]).output.partition("Options:")[0]
    listed = text.partition("\nArguments:\n")[2]
    arguments = [option for option in COMMANDS[name].params if isinstance(option, click.Argument)]
    names = [
        argument.human_readable_name for argument in arguments if not isinstance(argument.type, click.Choice)
    ]
    assert re.findall(r"^  ([A-Z_]+)  +\w.*\w", listed, re.MULTILINE) == names


def test_the_examples_in_the_help_parse() -> None:
    examples = re.findall(r"python cli.py (\S+) ([^\n]*?)(?:  +.*)?$", cli.main.help or "", re.MULTILINE)
    assert len(examples) == 5
    for name, arguments in examples:
        COMMANDS[name].make_context(name, shlex.split(arguments))


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["destill"], 2, "no command 'destill'; did you mean 'distill'?"),
        (["distill", "a"], 2, "Missing argument 'CACHE'"),
        (["distill", "a", "b", "c", "--epoch", "3"], 2, "Did you mean"),
        (["distill", "a", "b", "c", "--epochs", "x"], 2, "not a valid integer"),
        (["pack", "nowhere", "out"], 2, "nowhere"),
        (["cache-teacher", "nowhere", "c.zarr"], 2, "there is no dataset nowhere"),
        (["distill", "nowhere", "c.zarr", "run"], 2, "there is no dataset nowhere"),
        (["cache", "info", "nowhere.zarr"], 1, "nowhere.zarr"),
        (["report", "run", "--out", "report.txt"], 2, "ends in .md"),
        (["export", "run", "out.safetensors"], 1, "does not exist"),
    ],
)
def test_wrong_use_is_one_sentence(
    arguments: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    found, text = invoke(*arguments, capsys=capsys)
    assert found == code
    assert sentence in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


def test_as_a_process_it_exits_with_the_code_and_no_traceback(tmp_path: Path) -> None:
    done = run("pack", tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_rank_that_fails_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the exit handlers of libraries: NCCL's would wait for the other ranks."""
    ended: list[int] = []
    monkeypatch.setattr(run_command, "exit_at_once", ended.append)
    monkeypatch.setattr(sys, "argv", ["cli.py", "cache", "info", str(tmp_path / "absent.zarr")])
    for ranks, expected in (("1", []), ("2", [1])):
        monkeypatch.setenv("WORLD_SIZE", ranks)
        assert cli.run_cli() == 1
        assert ended == expected
        assert "absent.zarr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [
        (["pack", "d", "o"], True),
        (["cache", "repair", "c.zarr", "--dataset", "d"], True),
        (["embed", "d", "o.zarr", "--teacher", "demo"], True),
        (["embed", "d", "o.npy", "--teacher", "demo"], False),
        (["export", "run", "o.onnx"], False),
        (["cache", "verify", "c.zarr"], False),
    ],
)
def test_an_interrupted_command_says_whether_it_goes_on(
    arguments: list[str], goes_on: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupt)
    assert cli.run_cli(arguments) == 130
    said = capsys.readouterr().err.strip()
    assert said == ("interrupted; the same command goes on from here" if goes_on else "interrupted")


def test_an_error_of_the_file_system_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        Path("/proc/self/nothing").write_text("")

    monkeypatch.setattr(cli, "main", refuse)
    assert cli.run_cli(["students"]) == 1
    assert capsys.readouterr().err.startswith("error: cannot use /proc/self/nothing: ")


def test_a_mistyped_student_names_the_nearest(
    packed: Path, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = invoke("distill", packed, cached, tmp_path / "run", "--student", "resnet81", capsys=capsys)
    assert code == 2
    assert "did you mean 'resnet18'" in text


def test_flags_win_over_the_settings_file_and_that_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[DistillConfig] = []
    monkeypatch.setattr("pipeline.training.distill.distill", seen.append)
    settings = tmp_path / "settings.toml"
    settings.write_text("epochs = 7\nlr = 0.5\ncrop-scale = [0.3, 1]\n")
    arguments = ["distill", "d", "c", "r", "--config", str(settings), "--lr", "0.25"]
    assert cli.run_cli(arguments) == 0
    (config,) = seen
    assert (config.epochs, config.lr, config.crop_scale, config.tau) == (7, 0.25, (0.3, 1.0), None)
