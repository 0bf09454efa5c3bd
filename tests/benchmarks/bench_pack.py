"""`pack`, with its checks, against FFCV's own writer over the same folder: files kept as they are, and reduced ones."""

import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.benchmarks.photographs import write_photographs

IMAGES, SIZE, WORKERS = 6_000, (500, 375), 2
WAYS = {"pack": (512, "stored as they are"), "pack-reduced": (256, "reduced to 256 px")}


def measure(folder: Path) -> Iterator[Figure]:
    """Time the packing of 6,000 JPEG files of 500 x 375 px into .beton files whose images are JPEG."""
    photographs = write_photographs(folder / "images", IMAGES, SIZE)
    for name, (longest, how) in WAYS.items():
        yield figure(name, how, longest, photographs, folder / "dataset", folder / "peer.beton")


def figure(name: str, how: str, longest: int, photographs: Path, out: Path, peer: Path) -> Figure:
    """Time both as commands, from the start of Python to its end."""
    limits = ["--write-mode", "jpg", "--max-resolution", longest, "--workers", WORKERS]
    ours = ["cli.py", "pack", photographs, out, *limits]
    theirs = ["-m", "tests.benchmarks.ffcv_pack", photographs, peer, longest, WORKERS]

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)
        peer.unlink(missing_ok=True)

    seconds = interleaved({"pack": partial(run, ours), "FFCV": partial(run, theirs)}, rounds=3, before=clear)
    rate = {side: IMAGES / statistics.median(of) for side, of in seconds.items()}
    return Figure(
        name=name,
        what=f"`pack` of {IMAGES:,} JPEG files of {SIZE[0]} x {SIZE[1]} px, {how}, {WORKERS} workers",
        against="a script with FFCV's DatasetWriter over ImageFolder, which checks nothing and encodes all",
        ratio=ratio(seconds, "FFCV", "pack"),
        unit="x its speed",
        at_least=1.0,
        seconds=seconds,
        bound=f"{rate['pack']:.0f} images/s against {rate['FFCV']:.0f}, with the start of Python; `pack` also hashes "
        "every image twice, by its bytes and as it looks",
        details={"images a second": rate},
    )


def run(arguments: list[object]) -> None:
    """Run Python to its end, silently. Raises CalledProcessError."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)
