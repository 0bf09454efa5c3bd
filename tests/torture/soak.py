"""`python -m tests.torture.soak`: train many students over one cache, several at a time, while it is verified and read.

Each student is a process of the command line. Leaks are counted before and after: shared memory, temporary files, the
open files and maps of a process that keeps reading, and orphaned processes.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cache.durable import write_file
from pipeline.runtime.provenance import provenance
from tests.support.squares import draw_squares
from tests.torture.children import adopt_orphans
from tests.torture.leaks import READER, counted, left_behind, reader_leaks, sha256

RESULTS = Path(__file__).with_name("soak.json")
SCRATCH = Path("runs/soak")
TEACHER = "tests.support.tiny_teacher:wide"
STUDENT = (
    "tests.support.tiny_student:build --image-size 24 --epochs 4 --batch-size 40 --lr 0.1 "
    "--anchors 100 --device cpu"
)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The folders of a soak: images, dataset, cache, runs, temporary files and records."""

    cache: Path
    dataset: Path
    pictures: Path
    students: Path
    temporary: Path
    home: Path
    over: Path

    @classmethod
    def within(cls, folder: Path) -> "Ground":
        """Place every part below one folder, under its name."""
        names = {field.name: field.name for field in fields(cls)} | {"cache": "cache.zarr"}
        return cls(**{name: folder.resolve() / place for name, place in names.items()})

    @property
    def kept(self) -> dict[str, Path]:
        """The folders that nothing may change."""
        return {"the cache": self.cache, "the dataset": self.dataset, "the pictures": self.pictures}

    @property
    def environment(self) -> dict[str, str]:
        own = {"TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        return {**os.environ, **own}

    def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command as a process."""
        program = [sys.executable, "cli.py", *map(str, arguments)]
        return subprocess.run(program, env=self.environment, capture_output=True, text=True)


@click.command()
@click.option(
    "--scratch",
    type=Path,
    default=SCRATCH,
    show_default=True,
    help="new or empty folder; deleted after a soak without problems",
)
@click.option("--students", type=int, default=20, show_default=True, help="number of runs")
@click.option("--at-once", type=int, default=4, show_default=True, help="runs at a time")
@click.option("--seeds", type=int, default=5, show_default=True, help="number of different seeds among them")
@click.option("--results", type=Path, default=RESULTS, help="file to write the verdict to")
def main(scratch: Path, students: int, at_once: int, seeds: int, results: Path) -> None:
    """Train students over one cache, verify it meanwhile, and count leaks."""
    adopt_orphans()
    ground = Ground.within(scratch)
    if scratch.exists() and any(scratch.iterdir()):
        sys.exit(f"{scratch} is not empty; delete it or choose another --scratch")
    prepare(ground)
    before = counted(ground.kept, ground.temporary)
    with reading(ground) as reader, verifying(ground) as verified, ThreadPoolExecutor(at_once) as pool:
        runs = list(
            tqdm(
                pool.map(lambda n: one_student(ground, n, n % seeds), range(students)),
                total=students,
                unit="run",
            )
        )
    problems = [problem for run in runs for problem in run.problems]
    problems += [problem for problem in verified if problem]
    problems += left_behind(before, counted(ground.kept, ground.temporary)) + reader_leaks(reader)
    problems += unequal(runs)
    if not problems:
        shutil.rmtree(scratch)
    sys.exit(verdict(runs, verified, reader, problems, results))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One student: its seed, the sha256 of its weights file, and what went wrong."""

    seed: int
    sha256: str
    problems: list[str]


def prepare(ground: Ground) -> None:
    """Pack a dataset and cache its embeddings."""
    for folder in (ground.temporary, ground.home):
        folder.mkdir(parents=True)
    draw_squares(ground.pictures)
    for arguments in (
        ["pack", ground.pictures, ground.dataset, "--workers", "1"],
        [
            "cache-teacher",
            ground.dataset,
            ground.cache,
            "--teacher",
            TEACHER,
            "--device",
            "cpu",
            "--workers",
            "1",
        ],
    ):
        done = ground.command(*arguments)
        if done.returncode:
            sys.exit(f"{arguments[0]} failed: {done.stderr}")


def one_student(ground: Ground, number: int, seed: int) -> Run:
    """Train one student with `distill`."""
    folder = ground.students / str(number)
    made = [
        "distill",
        ground.dataset,
        ground.cache,
        folder,
        "--student",
        *STUDENT.split(),
        "--seed",
        str(seed),
    ]
    done = ground.command(*made)
    if done.returncode:
        return Run(
            seed=seed, sha256="", problems=[f"student {number} ended with {done.returncode}: {done.stderr}"]
        )
    return Run(seed=seed, sha256=sha256(folder / "student.safetensors"), problems=[])


@contextmanager
def verifying(ground: Ground) -> Iterator[list[str]]:
    """Run `cache verify` again and again; yield a list that gets an entry each time, empty for a sound store."""
    said: list[str] = []
    over = threading.Event()

    def verify() -> None:
        while not over.is_set():
            done = ground.command("cache", "verify", ground.cache)
            said.append(
                "" if done.returncode == 0 and ": sound (" in done.stdout else f"verify: {done.stderr}"
            )

    thread = threading.Thread(target=verify)
    thread.start()
    try:
        yield said
    finally:
        over.set()
        thread.join()


@contextmanager
def reading(ground: Ground) -> Iterator[list[int]]:
    """Open, verify and read the store in another process; yield a list that is filled at the end.

    The list holds the number of rounds, then the open files and maps at first, then both at the end.
    """
    program = [sys.executable, "-c", READER, str(ground.cache), str(ground.over)]
    counts: list[int] = []
    with subprocess.Popen(program, env=ground.environment, stdout=subprocess.PIPE, text=True) as reader:
        try:
            yield counts
        finally:
            ground.over.touch()
            counts += map(int, reader.communicate()[0].split())


def unequal(runs: list[Run]) -> list[str]:
    """Return a sentence for each seed with different students, and for students that do not depend on the seed."""
    by_seed: dict[int, set[str]] = defaultdict(set)
    for run in runs:
        by_seed[run.seed].add(run.sha256)
    problems = [
        f"seed {seed} gave {len(found)} different students"
        for seed, found in by_seed.items()
        if len(found) > 1
    ]
    if len(set.union(*by_seed.values())) < len(by_seed):
        problems.append("two seeds gave the same student")
    return problems


def verdict(
    runs: list[Run], verified: list[str], reader: list[int], problems: list[str], results: Path
) -> int:
    """Print the verdict, write it to `results`, and return the exit code."""
    sentence = (
        f"{len(runs)} students of {len({run.seed for run in runs})} seeds over one cache, verified {len(verified)} "
        f"times and read {reader[0] if reader else 0} times meanwhile: {len(problems)} problems"
    )
    print(*problems[:20], sentence, sep="\n")
    counts: dict[str, Any] = dict(
        zip(("rounds", "files before", "maps before", "files after", "maps after"), reader, strict=False)
    )
    students = [{"seed": run.seed, "sha256": run.sha256} for run in runs]
    content = {"verdict": sentence, "problems": problems, "reader": counts, "students": students}
    write_file(results, (json.dumps({**content, "provenance": provenance()}, indent=1) + "\n").encode())
    return int(bool(problems))


if __name__ == "__main__":
    main()
