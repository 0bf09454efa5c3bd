"""Out-of-memory errors as one sentence, and returning free memory to the system."""

import contextlib
import ctypes
from collections.abc import Iterator

import pyarrow as pa
import torch

from pipeline.errors import PipelineError, first_line

# What precedes the reason in errors that have no class of their own: PyTorch's on the CPU, and faiss's on a GPU.
ALLOCATORS = ("DefaultCPUAllocator: ", "StandardGpuResources: ")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out: PyTorch's or faiss's on CPU or GPU, NumPy's or Python's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in ALLOCATORS)


@contextlib.contextmanager
def explain_out_of_memory(*flags: str) -> Iterator[None]:
    """Within the context, turn out-of-memory errors into a PipelineError that names the flags to reduce."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise PipelineError(
            f"out of memory ({short_message(error)}): give a smaller {' or '.join(flags)}"
        ) from error


def short_message(error: BaseException) -> str:
    """Return the requested size from an out-of-memory error, without PyTorch's page of advice."""
    text = first_line(error)
    for name in ALLOCATORS:
        text = text.rpartition(name)[2]
    return text.split(". ")[0]


def release_free_memory() -> None:
    """Return freed memory to the system: after reading the tables of a million rows, allocators keep tens of MB."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only in the GNU C library
    if trim:
        trim(0)
