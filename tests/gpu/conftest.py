"""Tests of a GPU, run by `make gpu-check`. GPU_CHECK_DEVICE=cpu rehearses them on the CPU."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cache.layout import SplitShape
from cache.reader import Split
from pipeline.runtime.device import gpu_record, resolve_device
from pipeline.runtime.precision import use_full_float32
from pipeline.runtime.provenance import provenance
from tests.support.tiny_store import written

NAME = os.environ.get("GPU_CHECK_DEVICE", "cuda")
OUT = os.environ.get("GPU_CHECK_OUT")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write what was found to GPU_CHECK_OUT/tests.json, for docs/gpu.md."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind)]
    tests = {
        each.nodeid.split("tests/gpu/")[1]: {"outcome": each.outcome, "seconds": round(each.duration, 2)}
        for each in reports
        if each.when == "call" and "tests/gpu/" in each.nodeid
    }
    if OUT and tests:
        found = provenance() | gpu_record(resolve_device(NAME)) | {"tests": tests}
        Path(OUT).mkdir(parents=True, exist_ok=True)
        (Path(OUT) / "tests.json").write_text(json.dumps(found, indent=1) + "\n")


@pytest.fixture(scope="session")
def device() -> torch.device:
    if NAME == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU: make gpu-check")
    return resolve_device(NAME)


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Compute in float32 as a command does, and leave no choice of algorithms behind."""
    use_full_float32()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """A cache's split of 60 rows with random embeddings."""
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    return written(path, SplitShape(rows=60, views=1, dim=6))
