"""Trying an output before the work that it is for, so that a path that cannot be written is found first."""

import errno
import os
import tempfile
from pathlib import Path

from pipeline.errors import WrongUse


def require_writable_file(path: Path) -> None:
    """Raise WrongUse if a file cannot be written at `path`. Nothing is created."""
    _require(path, is_folder=False)


def require_writable_folder(path: Path) -> None:
    """Raise WrongUse if files cannot be written into the folder `path`, which need not exist. Nothing is created."""
    _require(path, is_folder=True)


def _require(path: Path, *, is_folder: bool) -> None:
    try:
        _try_writing(path, is_folder)
    except OSError as error:
        raise WrongUse(f"cannot write {path}: {error.strerror or error}; choose another path") from error


def _try_writing(path: Path, is_folder: bool) -> None:
    path = path.absolute()
    try:
        path.stat()
    except FileNotFoundError:
        within = next(folder for folder in path.parents if folder.exists())
    else:
        if path.is_dir() != is_folder:
            code = errno.ENOTDIR if is_folder else errno.EISDIR
            raise OSError(code, os.strerror(code))
        within = path if is_folder else path.parent
    with tempfile.TemporaryFile(dir=within):  # without a name, where the file system can
        pass
