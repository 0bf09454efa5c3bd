"""Running out of memory ends in a sentence that names what to make smaller, wherever it happens."""

import ctypes
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.embedding.cache_teacher import embed
from pipeline.errors import PipelineError
from pipeline.images.dataset import open_dataset
from pipeline.runtime.out_of_memory import explain_out_of_memory, release_free_memory
from pipeline.teachers.backbone_spec import BackboneSpec
from pipeline.training.distill import distill
from pipeline.training.student_run import StudentRun
from tests.support.training_runs import settings

PEBIBYTE = 1 << 50  # no process can have it: addresses have 47 bits


def on_a_gpu() -> None:
    """As a GPU says it."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
    )


def in_faiss_on_a_gpu() -> None:
    """As faiss says it."""
    raise RuntimeError(
        "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory(const faiss::gpu::AllocRequest&) at "
        "StandardGpuResources.cpp:530: Error: 'err == cudaSuccess' failed: StandardGpuResources: alloc fail type "
        "TemporaryMemoryBuffer dev 0 space Device stream (nil) size 1610612736 bytes (cudaMalloc error out of memory "
        "[2])"
    )


@pytest.mark.parametrize(
    ("allocate", "said"),
    [
        (lambda: torch.empty(PEBIBYTE, dtype=torch.uint8), "can't allocate memory: you tried to allocate"),
        (lambda: np.empty(PEBIBYTE, np.uint8), "Unable to allocate 1.00 PiB"),
        (lambda: bytearray(PEBIBYTE), "MemoryError"),
        (on_a_gpu, "CUDA out of memory"),
        (in_faiss_on_a_gpu, "alloc fail type TemporaryMemoryBuffer .* out of memory"),
    ],
)
def test_every_kind_is_one_sentence(allocate: Callable[[], Any], said: str) -> None:
    with (
        pytest.raises(PipelineError, match=rf"^out of memory \({said}[^\n]*\): give a smaller --a or --b$"),
        explain_out_of_memory("--a", "--b"),
    ):
        allocate()


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes$"), explain_out_of_memory("--a"):
        raise RuntimeError("shapes")


def test_training_names_its_flags(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StudentRun, "train_step", lambda *_: torch.empty(PEBIBYTE, dtype=torch.uint8))
    with pytest.raises(PipelineError, match="smaller --batch-size or --image-size or --anchors"):
        distill(settings(packed, cached, tmp_path / "run"))


def test_an_extraction_names_its_flags_and_goes_on_with_smaller_batches(
    packed: Path, scheduler: str, tmp_path: Path
) -> None:
    greedy = BackboneSpec(kind="teacher", name="tests.support.tiny_teacher:greedy")
    dataset = open_dataset(packed)
    with pytest.raises(PipelineError, match=re.escape("use a smaller --batch-size or fewer --workers")):
        embed(greedy, dataset, tmp_path / "8.zarr", splits=["val"], batch_size=8, scheduler=scheduler)
    assert embed(greedy, dataset, tmp_path / "4.zarr", splits=["val"], batch_size=4, scheduler=scheduler).rows


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="malloc_trim is of the GNU C library"
)
def test_what_is_free_goes_back_to_the_system() -> None:
    # 125 MiB, each piece too small for a mapping of its own
    pieces = [np.ones(64 << 10, np.uint8) for _ in range(2_000)]
    places = [piece.ctypes.data for piece in pieces[:-1]]
    assert resident_share(places) == 1
    del pieces[:-1]  # the last one keeps the heap from being cut at its end
    assert resident_share(places) > 0.9, "free, and still held"
    release_free_memory()
    assert resident_share(places) < 0.1


def resident_share(places: list[int]) -> float:
    """Return the share of the pages, one within each piece, that are in memory: mincore asks the system for each."""
    page, state = resource.getpagesize(), ctypes.c_ubyte()
    resident = 0
    for place in places:
        start = (place // page + 4) * page
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(page), ctypes.byref(state))
        resident += not failed and state.value & 1
    return resident / len(places)
