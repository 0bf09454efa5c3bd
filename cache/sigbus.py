"""Mapped files that are cut short while they are read: words instead of the end of the process.

A page that a mapped file no longer has cannot be read: the system sends SIGBUS, which ends a process. In maps that are
watched here a page of zeros takes its place, the loss is counted, and `require_kept` tells of it. Who reads a watched
map calls that before what was read is used, and `require_sizes` before anything that came of it is saved.
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

MOST_MAPS = 1 << 17  # twice what Linux allows a process; the maps above it are not watched
# The table's places: the action before ours, counts, then three words a map: address, end, pages lost.
FORMER, LOST, USED, MAPS = 0, 20, 21, 22
MOST_NAMED = 5
SYMBOL = "anchorage_watched_maps"
SIGBUS, SIGINFO = int(signal.SIGBUS), 4
READ_ONLY, FIXED_PRIVATE_ANONYMOUS = 1, 0x32
POSSIBLE = sys.platform == "linux"  # whose numbers and structures these are
PAGE = mmap.PAGESIZE

_bytes = mmap.mmap(-1, 8 * (MAPS + 3 * MOST_MAPS), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
_table = (ctypes.c_int64 * (MAPS + 3 * MOST_MAPS)).from_buffer(_bytes)
_watched: dict[int, tuple[Path, str]] = {}
_free: list[int] = []
_changing = threading.RLock()  # a map may be let go of while another is being watched, also by one thread
# by name, so that the compiled handler can be kept on disk, wherever the table is in this process
binding.add_symbol(SYMBOL, ctypes.addressof(_table))
_mmap = types.ExternalFunction(
    "mmap", types.intp(types.intp, types.intp, types.int32, types.int32, types.int32, types.int64)
)
_sigaction = types.ExternalFunction(
    "sigaction", types.int32(types.int32, types.CPointer(types.int64), types.intp)
)


class _Action(ctypes.Structure):
    """Linux's struct sigaction, of 19 words."""

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
    """The handler: a page of zeros for one that a watched map lost; any other fault gets the action before ours.

    Only what is safe in a handler: no lock, no Python, and system calls that POSIX or Linux allow there.
    """
    table, address = _the_table(), information[2]
    for place in range(MAPS, MAPS + 3 * table[USED], 3):
        if table[place] <= address < table[place + 1]:
            table[place + 2] += 1
            table[LOST] += 1
            page = address - address % PAGE
            # it fails where a process has all the maps that it may have
            if _mmap(page, PAGE, READ_ONLY, FIXED_PRIVATE_ANONYMOUS, -1, 0) == page:
                return
            break
    _sigaction(number, table, 0)


@cache
def _install() -> None:
    kind = types.void(types.int32, types.CPointer(types.int64), types.voidptr)
    try:
        handler = cfunc(kind, cache=True)(_lost_page)
    except RuntimeError:  # numba finds no folder to keep it in
        handler = cfunc(kind)(_lost_page)
    action = _Action(handler=handler.address, flags=SIGINFO)
    former = ctypes.byref(_table, 8 * FORMER)
    if ctypes.CDLL(None, use_errno=True).sigaction(SIGBUS, ctypes.byref(action), former):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def watch(path: Path, address: int, size: int, remedy: str) -> int:
    """Watch the map of a file of `size` bytes at `address`; returns the number to `unwatch` it by.

    remedy: what to do about a file that was cut short, as the end of a sentence.
    """
    if not POSSIBLE or len(_watched) == MOST_MAPS:
        return -1
    _install()
    with _changing:
        number = _free.pop() if _free else len(_watched)
        place = MAPS + 3 * number
        # the end last: until then the entry holds no address
        _table[place], _table[place + 2], _table[place + 1] = address, 0, address + size
        _table[USED] = max(_table[USED], number + 1)
        _watched[number] = (path, remedy)
        return number


def unwatch(number: int) -> None:
    """Watch a map no longer; to be called before it is unmapped, when its addresses may become another's."""
    with _changing:
        if _watched.pop(number, None):
            place = MAPS + 3 * number
            _table[place + 1] = 0
            _table[LOST] -= _table[place + 2]
            _free.append(number)


def require_kept() -> None:
    """Raise CorruptStore, naming the files, if of any map that is watched now a page was lost."""
    if _table[LOST]:
        with _changing:
            lost = [number for number in _watched if _table[MAPS + 3 * number + 2]]
        _refuse(lost)


def require_sizes() -> None:
    """`require_kept`, and the sizes of the files too: of one cut within a page the rest of that page reads as zeros.

    A file that was deleted stays mapped, and is no fault.
    """
    require_kept()
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
    of = sorted({_watched[number] for number in numbers if number in _watched})
    if of:
        more = f" and {len(of) - MOST_NAMED} more" if len(of) > MOST_NAMED else ""
        raise CorruptStore(
            f"{', '.join(str(path) for path, _ in of[:MOST_NAMED])}{more} was cut short, or its disk failed, while "
            f"it was read, and nothing that was read since is kept; {of[0][1]}"
        )
