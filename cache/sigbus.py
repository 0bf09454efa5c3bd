"""Truncation of mapped files: an error message instead of a crash by SIGBUS.

Reading a page that a mapped file no longer has makes the system send SIGBUS, which ends the process. In a watched map
the handler here puts a page of zeros in its place and counts the loss. Code that reads a watched map must call
`require_intact_maps` before it uses what it has read, and `require_intact_files` before it saves any result.
"""

import ctypes
import mmap
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

from llvmlite import binding, ir
from numba import cfunc, types
from numba.extending import intrinsic

from cache.errors import CorruptStore

MOST_MAPS = 1 << 17  # twice Linux's limit per process; further maps are not watched
# Layout of the table: the previous signal action, two counts, then three words per map: address, end, lost pages.
FORMER, LOST, USED, MAPS = 0, 20, 21, 22
MOST_NAMED = 5
SYMBOL = "anchorage_watched_maps"
SIGBUS, SIGINFO = int(signal.SIGBUS), 4
READ_ONLY, FIXED_PRIVATE_ANONYMOUS = 1, 0x32
POSSIBLE = sys.platform == "linux"  # the constants and structures here are Linux's
PAGE = mmap.PAGESIZE

_bytes = mmap.mmap(-1, 8 * (MAPS + 3 * MOST_MAPS), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
_table = (ctypes.c_int64 * (MAPS + 3 * MOST_MAPS)).from_buffer(_bytes)
_watched: dict[int, tuple[Path, str]] = {}
_free: list[int] = []
_changing = threading.RLock()  # reentrant: a finalizer may unwatch a map while its thread is in `watch`
# by name, so that the compiled handler can be cached on disk although the table's address differs per process
binding.add_symbol(SYMBOL, ctypes.addressof(_table))
_mmap = types.ExternalFunction(
    "mmap", types.intp(types.intp, types.intp, types.int32, types.int32, types.int32, types.int64)
)
_sigaction = types.ExternalFunction(
    "sigaction", types.int32(types.int32, types.CPointer(types.int64), types.intp)
)


class _Action(ctypes.Structure):
    """Linux's struct sigaction, 19 words."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@intrinsic
def _the_table(typing_context):  # type: ignore[no-untyped-def]
    def address(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return ir.GlobalVariable(builder.module, ir.IntType(64), SYMBOL)

    return types.CPointer(types.int64)(), address


def _lost_page(number, information, context):  # type: ignore[no-untyped-def]
    """Signal handler: replace the lost page of a watched map by zeros; for any other fault restore the previous action.

    It does only what is safe in a signal handler: no locks, no Python, and only async-signal-safe system calls.
    """
    table, address = _the_table(), information[2]
    for place in range(MAPS, MAPS + 3 * table[USED], 3):
        if table[place] <= address < table[place + 1]:
            table[place + 2] += 1
            table[LOST] += 1
            page = address - address % PAGE
            # this fails when the process has reached its limit of maps
            if _mmap(page, PAGE, READ_ONLY, FIXED_PRIVATE_ANONYMOUS, -1, 0) == page:
                return
            break
    _sigaction(number, table, 0)


@cache
def _install() -> None:
    kind = types.void(types.int32, types.CPointer(types.int64), types.voidptr)
    try:
        handler = cfunc(kind, cache=True)(_lost_page)
    except RuntimeError:  # numba finds no writable folder to cache it in
        handler = cfunc(kind)(_lost_page)
    action = _Action(handler=handler.address, flags=SIGINFO)
    former = ctypes.byref(_table, 8 * FORMER)
    if ctypes.CDLL(None, use_errno=True).sigaction(SIGBUS, ctypes.byref(action), former):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def watch(path: Path, address: int, size: int, remedy: str) -> int:
    """Watch the map of a file of `size` bytes at `address`; returns the number to pass to `unwatch`.

    remedy: what the user should do if the file is truncated, as the end of the error message.
    """
    if not POSSIBLE or len(_watched) == MOST_MAPS:
        return -1
    _install()
    with _changing:
        number = _free.pop() if _free else len(_watched)
        place = MAPS + 3 * number
        # the end is written last: until then the entry matches no address
        _table[place], _table[place + 2], _table[place + 1] = address, 0, address + size
        _table[USED] = max(_table[USED], number + 1)
        _watched[number] = (path, remedy)
        return number


def unwatch(number: int) -> None:
    """Stop watching a map. Call it before unmapping, after which another map may get the same addresses."""
    with _changing:
        if _watched.pop(number, None):
            place = MAPS + 3 * number
            _table[place + 1] = 0
            _table[LOST] -= _table[place + 2]
            _free.append(number)


def require_intact_maps() -> None:
    """Raise CorruptStore, naming the files, if a currently watched map has lost a page."""
    if _table[LOST]:
        with _changing:
            lost = [number for number in _watched if _table[MAPS + 3 * number + 2]]
        _refuse(lost)


def require_intact_files() -> None:
    """As `require_intact_maps`, and also compare the sizes of the files.

    In a file that was truncated within a page, the rest of that page reads as zeros without a signal. A deleted file
    stays mapped and is not an error.
    """
    require_intact_maps()
    with _changing:
        watched = dict(_watched)
    other = []
    for number, (path, _) in watched.items():
        place = MAPS + 3 * number
        with suppress(FileNotFoundError):
            if path.stat().st_size != _table[place + 1] - _table[place]:
                other.append(number)
    _refuse(other)


def _refuse(numbers: list[int]) -> None:
    files = sorted({_watched[number] for number in numbers if number in _watched})
    if files:
        more = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
        raise CorruptStore(
            f"{', '.join(str(path) for path, _ in files[:MOST_NAMED])}{more} was cut short, or its disk failed, while "
            f"it was read, and nothing that was read since is kept; {files[0][1]}"
        )
