"""Files of a Debian package, also where apt is missing: it is downloaded, checked and unpacked in Python."""

import hashlib
import os
import shutil
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.runtime.progress import Progress

BLOCK = 1 << 20
PATIENCE = 60  # seconds without a byte
MAGIC = b"!<arch>\n"  # of the archive format that `ar` writes, which a .deb is
HEADER = 60  # bytes before each of its members: the name in the first 16, the length in 48 to 58


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """A Debian package and the folder of it that is wanted.

    name: as apt knows it. url: of the .deb. sha256: of that file, hex. root: the folder, relative to /.
    """

    name: str
    url: str
    sha256: str
    root: str

    @property
    def installed(self) -> Path:
        """Return the folder where apt installs it."""
        return Path("/") / self.root


def package_files(package: DebianPackage, cache: Path) -> Path:
    """Return the folder `root` of a package: the installed one if it exists, else a copy in `cache`.

    The copy is made once: the .deb is downloaded unless it is in `cache` already, checked by its sha256 and unpacked.
    Raises PipelineError if it cannot be downloaded or unpacked or its sha256 differs.
    """
    if package.installed.is_dir():
        return package.installed
    folder, deb = cache / package.name, cache / package.url.rpartition("/")[2]
    if folder.is_dir():
        return folder
    if not deb.is_file():
        _download(package, deb)
    _check(package, deb)
    try:
        _unpack(deb, package.root, folder)
        deb.unlink()
    except OSError as error:
        raise PipelineError(f"cannot unpack {deb} to {folder}: {error}") from error
    return folder


def _download(package: DebianPackage, deb: Path) -> None:
    part = deb.with_name(f"{deb.name}.part")
    try:
        deb.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(package.url, timeout=PATIENCE) as answer,
            part.open("wb") as file,
            Progress(
                total=int(answer.headers.get("Content-Length") or 0) or None,
                desc=package.name,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
        part.replace(deb)
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"cannot download {package.url} ({error}); run this again where there is a network, put that file at "
            f"{deb} yourself, or on Debian run `apt-get install {package.name}`"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _check(package: DebianPackage, deb: Path) -> None:
    with deb.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise PipelineError(
            f"{deb} is not the package {package.name}: expected the sha256 {package.sha256}, found {found}; remove "
            f"it and run this again, which fetches it from {package.url}"
        )


def _unpack(deb: Path, root: str, folder: Path) -> None:
    """Unpack the regular files below `root` of a .deb into a new folder, atomically; links are skipped."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with deb.open("rb") as file:
            file.seek(_start_of_data(file.read(BLOCK)))
            with tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    path = PurePosixPath("/") / member.name
                    if not member.isfile() or not path.is_relative_to(f"/{root}"):
                        continue
                    content = archive.extractfile(member)
                    assert content is not None  # a plain file
                    target = partial / path.relative_to(f"/{root}")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as out:
                        shutil.copyfileobj(content, out)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _start_of_data(beginning: bytes) -> int:
    """Return the offset of the content of data.tar.*, the member of a .deb with its files. beginning: first bytes."""
    place = len(MAGIC)
    while not beginning.startswith(b"data.tar", place):
        place += HEADER + int(beginning[place + 48 : place + 58])
        place += place % 2  # members begin at even places
    return place + HEADER
