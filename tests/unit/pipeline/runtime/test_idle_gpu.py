"""A GPU that PyTorch cannot use is named once, with the reason."""

import subprocess
import warnings
from collections.abc import Iterator

import pytest
import torch

from pipeline.errors import WrongUse
from pipeline.runtime import idle_gpu
from pipeline.runtime.device import CPU, resolve_device
from pipeline.runtime.idle_gpu import has_nvidia_gpu, warn_once

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver."
LISTED = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for function in (has_nvidia_gpu, warn_once):
        function.cache_clear()
    yield
    for function in (has_nvidia_gpu, warn_once):
        function.cache_clear()


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """PyTorch with CUDA that finds no device, on a machine with one GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(idle_gpu.subprocess, "run", nvidia_smi(LISTED))
    return monkeypatch


def nvidia_smi(output: str):  # type: ignore[no-untyped-def]
    return lambda command, **options: subprocess.CompletedProcess(command, 0, stdout=output)


def with_old_driver() -> bool:
    """PyTorch's answer where the driver is too old for its CUDA."""
    text = (
        f"CUDA initialization: {TOO_OLD} (Triggered internally at /pytorch/c10/cuda/CUDAFunctions.cpp:109.)"
    )
    warnings.warn(text, stacklevel=1)
    return False


def test_a_driver_that_is_too_old_is_said_once_in_the_words_of_pytorch(
    no_cuda: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_cuda.setattr(torch.cuda, "is_available", with_old_driver)
    assert [resolve_device("auto"), resolve_device("auto"), resolve_device("cpu")] == [CPU] * 3
    said = "warning: PyTorch runs on the CPU although this machine has a GPU: CUDA initialization: "
    assert capsys.readouterr().err == f"{said}{TOO_OLD}\n"
    with pytest.raises(
        WrongUse, match=r"--device cuda: .* no CUDA device \(CUDA init.* is too old .*; use --device"
    ):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("built_for", "reason"),
    [
        (None, "this PyTorch was built without CUDA"),
        ("13.0", "nvidia-smi lists a GPU, but PyTorch finds none"),
    ],
)
def test_a_gpu_that_pytorch_ignores_in_silence_is_said(
    built_for: str | None, reason: str, no_cuda: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_cuda.setattr(torch.version, "cuda", built_for)
    assert resolve_device("auto") == CPU
    assert capsys.readouterr().err.endswith(f"has a GPU: {reason}\n")


@pytest.mark.parametrize("hidden", idle_gpu.HIDDEN)
def test_a_hidden_gpu_is_no_idle_gpu(
    hidden: str, no_cuda: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_cuda.setenv("CUDA_VISIBLE_DEVICES", hidden)
    no_cuda.setattr(torch.cuda, "is_available", with_old_driver)
    assert (resolve_device("auto"), capsys.readouterr().err) == (CPU, "")


def no_nvidia_smi(*command: object, **options: object) -> None:
    raise FileNotFoundError("nvidia-smi")


@pytest.mark.parametrize("run", [no_nvidia_smi, nvidia_smi("No devices found.\n")])
def test_a_machine_without_a_gpu_is_silent(
    run: object, no_cuda: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_cuda.setattr(idle_gpu.subprocess, "run", run)
    assert (resolve_device("auto"), capsys.readouterr().err) == (CPU, "")
    with pytest.raises(WrongUse, match=r"PyTorch finds no CUDA device; use --device cpu"):
        resolve_device("cuda")


def test_cuda_is_used_where_it_works(no_cuda: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    no_cuda.setattr(torch.cuda, "is_available", lambda: True)
    no_cuda.setattr(torch.cuda, "device_count", lambda: 1)
    gpu = torch.device("cuda", 0)
    assert (resolve_device("auto"), resolve_device("cuda"), capsys.readouterr().err) == (gpu, gpu, "")
