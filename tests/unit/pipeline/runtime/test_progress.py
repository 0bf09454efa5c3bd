"""Progress bars in a log: whole lines, few of them, and the last state at the end."""

import io

import pytest

from pipeline.runtime import progress
from pipeline.runtime.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_short_task_is_one_line_in_a_log() -> None:
    log = io.StringIO()
    for _ in Progress(range(1000), unit=" images", desc="pack", file=log):
        pass
    (line,) = log.getvalue().splitlines()
    assert line.startswith("pack: 100%")
    assert "1000/1000" in line


def test_a_long_task_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    log = io.StringIO()
    with Progress(total=3, file=log, miniters=1) as bar:
        for _ in range(3):
            bar.update()
    lines = log.getvalue().splitlines()
    assert [line.split("|")[-1].split(" [")[0].strip() for line in lines] == ["1/3", "2/3", "3/3"]
    assert "\r" not in log.getvalue()


def test_values_behind_the_bar_wait_for_its_next_line() -> None:
    log = io.StringIO()
    with Progress(total=3, file=log) as bar:
        for step in range(3):
            bar.set_postfix(loss=step)
            bar.set_postfix_str(f"loss={step}")
            bar.update()
    assert log.getvalue().splitlines()[0].endswith("loss=2]")
    assert len(log.getvalue().splitlines()) == 1


def test_a_bar_that_leaves_nothing_and_a_disabled_one_write_nothing_short() -> None:
    log = io.StringIO()
    for settings in ({"leave": False}, {"disable": True}):
        for _ in Progress(range(10), file=log, **settings):
            pass
    assert log.getvalue() == ""


def test_a_terminal_is_redrawn() -> None:
    terminal = Terminal()
    for _ in Progress(range(10), file=terminal):
        pass
    assert terminal.getvalue().count("\r") > 0
