"""Ranks that lose one of them end in a sentence."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.runtime import distributed
from pipeline.runtime.device import CPU
from pipeline.runtime.distributed import (
    any_rank,
    explain_lost_rank,
    init_distributed,
    on_main_process,
    shutdown_distributed,
    use_all_cores,
)

fork = multiprocessing.get_context("fork")


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What torchrun tells rank 0 of two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}
    for name, value in where.items():
        monkeypatch.setenv(name, str(value))
    yield monkeypatch
    shutdown_distributed()


def other_rank(fate: int) -> None:
    """Joins, agrees once, and meets its fate."""
    os.environ |= {"RANK": "1", "LOCAL_RANK": "1"}
    init_distributed(CPU)
    any_rank(False, CPU)
    os.kill(os.getpid(), fate)


@pytest.mark.parametrize(("fate", "patience"), [(signal.SIGKILL, 60), (signal.SIGSTOP, 1)])
def test_a_rank_that_dies_or_hangs_is_a_sentence_on_the_others(
    two_ranks: pytest.MonkeyPatch, fate: int, patience: int
) -> None:
    two_ranks.setattr(distributed, "TIMEOUT", timedelta(seconds=patience))
    other = fork.Process(target=other_rank, args=(fate,))
    other.start()
    began = time.monotonic()
    try:
        init_distributed(CPU)
        with explain_lost_rank():
            assert not any_rank(False, CPU)
            sentence = r"another rank died or did not respond for .* minutes .* the same command goes on"
            with pytest.raises(PipelineError, match=sentence), explain_lost_rank():
                any_rank(False, CPU)
    finally:
        other.kill()
        other.join()
    assert time.monotonic() - began < 30


def follower() -> None:
    """Waits for rank 0, and goes on with it."""
    os.environ |= {"RANK": "1", "LOCAL_RANK": "1"}
    init_distributed(CPU)
    on_main_process(lambda: os.kill(os.getpid(), signal.SIGKILL))
    os._exit(0 if any_rank(False, CPU) else 1)


def test_the_others_wait_longer_for_rank_0_than_for_an_exchange(two_ranks: pytest.MonkeyPatch) -> None:
    two_ranks.setattr(distributed, "TIMEOUT", timedelta(seconds=1))
    other = fork.Process(target=follower)
    other.start()
    try:
        init_distributed(CPU)
        on_main_process(lambda: time.sleep(3))
        assert any_rank(True, CPU)
        other.join(30)
        assert other.exitcode == 0
    finally:
        other.kill()
        other.join()


@pytest.mark.parametrize(
    ("wanted", "ranks", "threads"), [("1", 2, 3), ("1", 1, 1), ("2", 2, 2), (None, 2, 3)]
)
def test_a_rank_uses_its_share_of_the_cores_whatever_torchrun_says(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, ranks: int, threads: int
) -> None:
    found: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    monkeypatch.setenv("OMP_NUM_THREADS", wanted) if wanted else monkeypatch.delenv("OMP_NUM_THREADS", False)
    use_all_cores()
    assert found == [threads]


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explain_lost_rank():
        raise RuntimeError("shapes do not fit")
