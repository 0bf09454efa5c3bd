"""bfloat16 only where it is multiplied; on CUDA float32 means float32, but for products meant to be in TF32."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.runtime.device import resolve_device
from pipeline.runtime.precision import (
    choose_algorithms,
    explain_nondeterminism,
    tf32_products,
    usual_precision,
)

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore PyTorch's settings after each test."""
    before = MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx512_f": True, "avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"neon": True}, "fp32"),
    ],
)
def test_a_processor_trains_in_bf16_if_it_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert usual_precision(torch.device("cpu")) == precision


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16")])
def test_a_gpu_trains_in_bf16_if_it_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability[0])
    )
    assert usual_precision(torch.device("cuda", 0)) == precision


def test_this_processor_tells_what_it_can() -> None:
    assert torch.cpu.get_capabilities()["architecture"] in ("x86_64", "aarch64", "arm64")


def test_a_gpu_computes_float32_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    MATMUL.allow_tf32 = CUDNN.allow_tf32 = True
    resolve_device("cuda")
    assert (MATMUL.allow_tf32, CUDNN.allow_tf32) == (False, False)


@pytest.mark.parametrize("enabled", [True, False])
def test_tf32_ends_with_its_context_also_after_an_error(enabled: bool) -> None:
    MATMUL.allow_tf32 = False

    def fail() -> None:
        with tf32_products(enabled):
            assert MATMUL.allow_tf32 is enabled
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert MATMUL.allow_tf32 is False


@pytest.mark.parametrize("deterministic", [True, False])
def test_algorithms_on_a_gpu_are_the_fastest_or_repeatable(deterministic: bool) -> None:
    choose_algorithms(torch.device("cuda", 0), deterministic=deterministic)
    assert CUDNN.benchmark is not deterministic
    assert torch.are_deterministic_algorithms_enabled() is deterministic


def test_the_cpu_has_nothing_to_choose() -> None:
    CUDNN.benchmark = False
    choose_algorithms(torch.device("cpu"), deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_repeatable_algorithm_is_a_sentence() -> None:
    def fail(message: str) -> None:
        with explain_nondeterminism():
            raise RuntimeError(message)

    with pytest.raises(
        PipelineError, match="--deterministic: some_op_cuda, which this student needs, has no repeat"
    ):
        fail("some_op_cuda does not have a deterministic implementation, but you set '...'")
    with pytest.raises(RuntimeError, match="something else"):
        fail("something else")
