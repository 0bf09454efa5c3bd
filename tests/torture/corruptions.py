"""`python -m tests.torture.corruptions`, part of `make torture`: damage a cache at random, then verify and repair it.

`cache verify` must name exactly the damaged files, and `cache repair` must restore every byte.
"""

import contextlib
import io
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cache.durable import write_file
from cache.errors import StoreError
from pipeline.embedding.cache_teacher import cache_teacher
from pipeline.embedding.verify_repair import find_faults, repair_cache
from pipeline.images.pack import pack
from pipeline.runtime.provenance import provenance
from pipeline.settings.cache_commands import CacheTeacherConfig, RepairConfig, VerifyConfig
from pipeline.settings.commands import PackConfig
from tests.support.squares import draw_squares
from tests.support.tiny_store import contents
from tests.torture.children import cluster
from tests.torture.damages import Corruption, Files, draw_round

RESULTS = Path(__file__).with_name("corruptions.json")
SCRATCH = Path("runs/corruptions")
TEACHER = "tests.support.tiny_teacher:wide"  # 64 rows a chunk: three of train, one of val


@click.command()
@click.option(
    "--scratch", type=Path, default=SCRATCH, show_default=True, help="folder for the caches and the record"
)
@click.option("--count", type=int, default=2000, show_default=True, help="number of corruptions")
@click.option(
    "--seconds", type=float, default=0, help="stop after this time; the same command continues. 0: never"
)
@click.option("--results", type=Path, default=RESULTS, help="file to write the verdict to")
def main(scratch: Path, count: int, seconds: float, results: Path) -> None:
    """Damage a cache at random, verify it, repair it, and compare every byte."""
    os.fsync = lambda descriptor: None  # no corruption cuts the power
    began, record = time.monotonic(), scratch / "corruptions.jsonl"
    rounds = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    done = sum(len(each["kinds"]) for each in rounds)
    with cluster() as scheduler, click.progressbar(length=count, file=sys.stderr) as bar:
        bar.update(done)
        tried = Tried(scratch, scheduler)
        while done < count and not (seconds and time.monotonic() - began > seconds):
            drawn = draw_round(random.Random(len(rounds)), tried.files, tried.others, most=count - done)
            rounds.append({"kinds": [each.kind for each in drawn], "problems": tried.problems(drawn)})
            with record.open("a") as stream:
                stream.write(json.dumps(rounds[-1]) + "\n")
            done += len(drawn)
            bar.update(len(drawn))
    sys.exit(verdict(rounds, count, results))


class Tried:
    """A sound store to damage again and again.

    files: its bytes by name. others: the bytes of a store of other images.
    """

    def __init__(self, scratch: Path, scheduler: str) -> None:
        self.repair = made(scratch / "work", scheduler, seed=0)
        self.path, self.files = self.repair.cache, contents(self.repair.cache)
        self.others = contents(made(scratch / "other", scheduler, seed=1).cache)

    def problems(self, drawn: Sequence[Corruption]) -> list[str]:
        """Return what `verify` and `repair` got wrong, one sentence each; the store is sound afterwards."""
        for each in drawn:
            self.write(each.changed)
        folders = [each.folder for each in drawn if each.folder is not None]
        wrong = self.missed_metadata(folders[0]) if folders else self.missed_files(drawn)
        self.write({name: None for name in contents(self.path) if name not in self.files})
        self.write({name: data for name, data in self.files.items() if self.bytes_of(name) != data})
        return wrong

    def write(self, changed: Any) -> None:
        """Replace files by bytes, a link or nothing."""
        for name, new in changed.items():
            (self.path / name).unlink(missing_ok=True)
            if isinstance(new, bytes):
                (self.path / name).write_bytes(new)
            elif new is not None:
                (self.path / name).symlink_to(new)

    def bytes_of(self, name: str) -> bytes | None:
        return (self.path / name).read_bytes() if (self.path / name).is_file() else None

    def missed_files(self, drawn: Sequence[Corruption]) -> list[str]:
        expected = {name for each in drawn for name in each.faults}
        try:
            _, faults = find_faults(VerifyConfig(cache=self.path))
            found = {f"{fault.split}/{fault.file}" for fault in faults}
            with quiet():
                repair_cache(self.repair)
        except StoreError as error:
            return [f"{describe(drawn)}: {error}"]
        wrong = [f"{describe(drawn)}: not named: {name}" for name in sorted(expected - found)]
        wrong += [f"{describe(drawn)}: named for nothing: {name}" for name in sorted(found - expected)]
        return wrong + [
            f"{describe(drawn)}: not as before: {name}" for name in different(self.files, self.path)
        ]

    def missed_metadata(self, folder: str) -> list[str]:
        """Check that damaged metadata are reported by the folder's name.

        The metadata of a split must be repaired; without the metadata of the store nothing may be touched.
        """
        expected, wrong = self.files if folder else contents(self.path), []
        for command in (find_faults,) if folder else (find_faults, repair_cache):
            try:
                with quiet():
                    found = command(self.repair)
                said = " ".join(map(str, found[1])) if found else ""
            except StoreError as error:
                said = str(error)
            if not said or not all(part in said for part in folder.split("/")):
                wrong.append(
                    f"metadata of {folder or 'the store'}: {command.__name__} printed: {said or 'nothing'}"
                )
        if folder:
            try:
                with quiet():
                    repair_cache(self.repair)
            except StoreError as error:
                wrong.append(f"metadata of {folder}: {error}")
        return wrong + [
            f"metadata of {folder}: not as expected: {name}" for name in different(expected, self.path)
        ]


def made(folder: Path, scheduler: str, seed: int) -> RepairConfig:
    """Write a cache of images drawn by a seed; return the settings that repair it."""
    pictures, dataset, path = (folder / name for name in ("pictures", "dataset", "cache.zarr"))
    if not pictures.exists():
        draw_squares(pictures, seed=seed)
        (pictures / "train/class-0/7.png").write_bytes(b"no picture")
    options: dict[str, Any] = {"dataset": dataset, "cache": path, "device": "cpu", "scheduler": scheduler}
    with quiet():
        pack(PackConfig(data=pictures, out=dataset, workers=1))
        cache_teacher(CacheTeacherConfig(**options, teacher=TEACHER, batch_size=16))
        repair_cache(RepairConfig(**options))  # an earlier slice may have ended before its repair
    return RepairConfig(**options)


def quiet() -> contextlib.AbstractContextManager[Any]:
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    return stack


def describe(drawn: Sequence[Corruption]) -> str:
    return " and ".join(f"{each.kind} ({', '.join(each.changed)})" for each in drawn)


def different(files: Files, path: Path) -> list[str]:
    """Return the names of files that are missing, added, or have other bytes."""
    found = contents(path)
    return sorted(name for name in files.keys() | found.keys() if files.get(name) != found.get(name))


def verdict(rounds: Sequence[dict[str, Any]], count: int, results: Path) -> int:
    """Print a table by kind and a sentence, write them to `results`, and return the exit code."""
    kinds = Counter(kind for each in rounds for kind in each["kinds"])
    problems = [problem for each in rounds for problem in each["problems"]]
    table = Table("corruption", "count")
    for kind, many in sorted(kinds.items()):
        table.add_row(kind, f"{many:,}")
    Console().print(table)
    for problem in problems[:20]:
        print(problem)
    refused = sum(many for kind, many in kinds.items() if kind.endswith("of the store"))
    sentence = (
        f"{kinds.total():,} of {count:,} corruptions: {len(problems)} problems; {kinds.total() - refused:,} of chunk "
        f"files and of splits' metadata, named one by one and repaired to the byte; {refused:,} of the store's own "
        "metadata, named and refused"
    )
    print(sentence)
    content = {"verdict": sentence, "kinds": dict(sorted(kinds.items())), "problems": problems}
    write_file(results, (json.dumps({**content, "provenance": provenance()}, indent=1) + "\n").encode())
    return int(bool(problems) or kinds.total() < count)


if __name__ == "__main__":
    main()
