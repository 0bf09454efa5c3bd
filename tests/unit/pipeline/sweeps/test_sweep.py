"""A sweep runs unfinished trials, survives a failing one, and forwards an interrupt."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from cache.reader import open_store
from cli import run_cli
from pipeline.errors import PipelineError, WrongUse
from pipeline.settings.commands import SweepConfig
from pipeline.sweeps.sweep import TrialFailed, call, is_recorded, sweep, training_seconds, words


@pytest.mark.long
def test_a_recipe_runs_to_its_end_and_again_does_nothing(
    packed: Path,
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'dataset = "{packed}"\ncache = "{cached}"\nruns = "{tmp_path / "runs"}"\nprotocol = ["nn"]\n'
        "[settings]\nimage-size = 32\nepochs = 0\nbatch-size = 32\n"
        "[[row]]\nname = 'untrained'\ncommand = 'pretrain'\nstudent = 'tests.support.tiny_student:build'\n"
        "[[row]]\nname = 'broken'\nstudent = 'resnet81'\n"
    )
    assert run_cli(["sweep", str(recipe)]) == 1
    printed = capfd.readouterr()
    assert "unknown student 'resnet81'; did you mean 'resnet18'" in printed.err + printed.out
    assert "1 of 2 trials failed (broken)" in printed.err
    record = tmp_path / "runs" / "results" / "untrained.json"
    found = json.loads(record.read_text())
    assert found["name"] == "untrained"
    assert found["role"] == "untrained"
    assert found["settings"]["epochs"] == 0
    assert found["seconds"] == 0, "nothing was trained"
    assert 0 <= found["metrics"]["nn1"] <= 1

    before = record.stat().st_mtime_ns
    assert run_cli(["sweep", str(recipe), "--only", "untrained"]) == 0
    assert record.stat().st_mtime_ns == before, "what is done is not done again"

    recipe.write_text(recipe.read_text().replace("batch-size = 32", "batch-size = 16"))
    assert run_cli(["sweep", str(recipe), "--only", "untrained"]) == 1
    assert "other settings than the recipe's" in capfd.readouterr().err
    assert run_cli(["sweep", str(recipe), "--only", "trained2"]) == 2


def test_a_reference_is_evaluated_again_when_its_record_is_of_another_store(
    cached: Path, tmp_path: Path
) -> None:
    record = tmp_path / "teacher.json"
    assert not is_recorded(record, cached)
    content = {"format": 1, "name": "x", "metrics": {}}
    for id, expected in ((open_store(cached).id[:16], True), ("0" * 16, False), (None, True)):
        record.write_text(json.dumps({**content, "provenance": {"store": id}}))
        assert is_recorded(record, cached) is expected
    assert is_recorded(record, tmp_path / "gone.zarr"), "its numbers are all that is left"


def test_a_sweep_needs_labels_before_it_trains(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'dataset = "{packed}"\ncache = "{cached}"\nruns = "{tmp_path / "runs"}"\n')
    monkeypatch.setattr("pipeline.sweeps.sweep.label_problem", lambda dataset: "d has no split 'val'")
    with pytest.raises(PipelineError, match="d has no split 'val'; a sweep evaluates its runs"):
        sweep(SweepConfig(recipe=recipe))
    assert not (tmp_path / "runs" / "1q.log").exists()


def test_an_open_quotation_in_the_launcher_is_wrong_use() -> None:
    assert words("torchrun --nproc-per-node 2") == ["torchrun", "--nproc-per-node", "2"]
    with pytest.raises(WrongUse, match='--launcher ": No closing quotation'):
        words('"')


def test_the_seconds_of_a_trial_are_those_of_all_its_processes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": {"batch_size": 32}}')
    lines = ['{"step": 10, "loss": 1.0, "images_per_s": 64.0}', '{"step": 13, "nn1": 0.5}']
    lines += ['{"step": 20, "loss": 0.9, "images_per_s": 32.0}']  # by hand: 10 * 32 / 64 + 10 * 32 / 32
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert training_seconds(tmp_path) == pytest.approx(15)


def test_a_process_that_fails_is_reported_with_its_last_line(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "print('first'); raise SystemExit('no room left')"]
    with pytest.raises(TrialFailed, match="exit code 1; no room left"):
        call(program, tmp_path / "x.log")
    assert (tmp_path / "x.log").read_text() == "first\nno room left\n"


@pytest.mark.parametrize("code", [130, 1])  # torchrun ends with 1
def test_an_interrupt_reaches_the_process_once_and_ends_the_sweep(tmp_path: Path, code: int) -> None:
    program = [
        sys.executable,
        "-c",
        "import signal, sys, time\n"
        f"def stop(number, frame): print('saved', flush=True); sys.exit({code})\n"
        "signal.signal(signal.SIGTERM, stop); print('ready', flush=True); time.sleep(60)",
    ]
    log, before = tmp_path / "x.log", signal.getsignal(signal.SIGINT)

    def interrupt_when_ready() -> None:
        while not log.exists() or "ready" not in log.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_when_ready).start()
    with pytest.raises(KeyboardInterrupt):
        call(program, log)
    assert log.read_text() == "ready\nsaved\n"
    assert signal.getsignal(signal.SIGINT) is before
