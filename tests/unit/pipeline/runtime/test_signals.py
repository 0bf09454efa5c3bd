"""Signals: none is lost."""

import os
import signal
import time
from typing import Any

import pytest

from pipeline.runtime.signals import terminated_as_interrupted


class EndedByASignal:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)  # where Python looks for signals


@pytest.mark.parametrize("sigint", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "nohup"])
def test_a_signal_within_a_destructor_interrupts_after_it(
    sigint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = signal.signal(signal.SIGINT, sigint)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    with terminated_as_interrupted():
        EndedByASignal()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)
    signal.signal(signal.SIGINT, usual)
    assert capsys.readouterr().err == ""
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before


def test_one_that_still_waits_at_the_end_is_raised_there() -> None:
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        EndedByASignal()


def test_the_alarm_of_the_caller_is_its_own() -> None:
    def ring(number: int, frame: object) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(600)
    try:
        with terminated_as_interrupted():
            pass
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
            EndedByASignal()
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 500 < left <= 600
        assert signal.getsignal(signal.SIGALRM) is ring
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
