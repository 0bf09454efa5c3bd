"""Running out of memory, in words, and giving back what is free."""

import contextlib
import ctypes
from collections.abc import Iterator

import pyarrow as pa
import torch

from pipeline.errors import PipelineError

CPU_ALLOCATOR = "DefaultCPUAllocator: "


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left: PyTorch's on either device, numpy's or Python's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # PyTorch has no class of its own for the CPU
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)


@contextlib.contextmanager
def explain_out_of_memory(*flags: str) -> Iterator[None]:
    """While open, running out of memory is a PipelineError that names the flags that need less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise PipelineError(
            f"out of memory ({first_words(error)}): give a smaller {' or '.join(flags)}"
        ) from error


def first_words(error: BaseException) -> str:
    """What was asked for, without PyTorch's page of advice."""
    said = (str(error) or type(error).__name__).splitlines()[0]
    return said.rpartition(CPU_ALLOCATOR)[2].split(". ")[0]


def give_back() -> None:
    """Give the system what is free but kept: of a million rows' tables, once read, tens of MB."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim:
        trim(0)
