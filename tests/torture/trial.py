"""One trial: run a stage with a fault, inspect what it left, run it again, and compare the result."""

import importlib
import json
import logging
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.torture.children import OUTSIDE, Ending, in_child
from tests.torture.faults import Fault, Shim
from tests.torture.stages import STAGES, Materials, Stage, contents, make_images

INTERRUPTED = 130
GO_ON = "interrupted; the same command goes on from here"


def make_materials(shim: Shim, folder: Path) -> tuple[Materials, dict[str, list[str]], dict[str, float]]:
    """Make the images and the result of each stage; also return each stage's calls and seconds."""
    materials = Materials(folder=folder)
    if not materials.images.exists():
        make_images(materials.images)
    import_all(["pipeline.loading.image_loader", "ffcv.writer"])  # as the fork server of `pack` does
    for stale in folder.glob("whole-*"):
        shutil.rmtree(stale)
    calls, seconds = {}, {}
    for stage in STAGES:
        files, _, _ = made_whole(shim, materials, stage)
        again, calls[stage.name], seconds[stage.name] = made_whole(shim, materials, stage)
        if wrong := differences(files, again):
            sys.exit(f"{stage.name} does not give the same bytes twice: {'; '.join(wrong)}")
    return materials, calls, seconds


def made_whole(shim: Shim, materials: Materials, stage: Stage) -> tuple[dict[str, bytes], list[str], float]:
    """Make an uninterrupted result; return its files, the calls that made it, and the seconds.

    Also imports here what the stage imported late, for later children.
    """
    folder, trace = materials.trial, materials.folder / f"{stage.name}.calls"
    modules = materials.folder / f"{stage.name}.modules"
    shutil.rmtree(folder, ignore_errors=True)
    trace.unlink(missing_ok=True)
    folder.mkdir(parents=True)
    ending = in_child(shim, naming_modules(stage.work(materials, folder), modules), folder, Fault(), trace)
    if ending.code or ending.wrong:
        sys.exit(f"{stage.name} fails without any fault: {ending.wrong or ending.said}")
    import_all(json.loads(modules.read_text()))
    shutil.rmtree(materials.whole(stage.name), ignore_errors=True)
    folder.rename(materials.whole(stage.name))
    return contents(materials.whole(stage.name)), trace.read_text().splitlines(), ending.seconds


def naming_modules(work: Callable[[], int], file: Path) -> Callable[[], int]:
    """Return the same work, which then writes the names of all imported modules to `file`."""

    def named() -> int:
        code = work()
        file.write_text(json.dumps(list(sys.modules)))
        return code

    return named


def import_all(names: list[str]) -> None:
    logging.disable(logging.INFO)
    for name in names:
        if name not in sys.modules and not name.startswith("__"):
            with suppress(Exception):  # a lazy module, as six makes them
                importlib.import_module(name)


def tried(shim: Shim, materials: Materials, stage: Stage, fault: Fault) -> list[str]:
    """Run a stage with a fault, then again; return the problems, one sentence each."""
    folder = materials.trial
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ending = in_child(shim, stage.work(materials, folder), folder, fault)
    problems = wrong_ending(ending, fault, folder)
    again = in_child(shim, looked_at_and_run(materials, stage, folder), folder, Fault())
    if again.code or again.wrong:
        problems.append(f"run again: {again.wrong or f'exit code {again.code}: {again.said}'}")
    problems += differences(contents(materials.whole(stage.name)), contents(folder))
    return problems


def wrong_ending(ending: Ending, fault: Fault, folder: Path) -> list[str]:
    """Return what is wrong with how a command ended.

    It may end by the fault, with one sentence, or with success in spite of the fault.
    """
    problems = [ending.wrong] if ending.wrong else []
    left = [path.name for path in folder.rglob("*.tmp")]
    if ending.code != OUTSIDE and ("Traceback" in ending.said or "Exception ignored" in ending.said):
        problems.append(f"a traceback: {ending.said}")
    if fault.kills:
        expected = ending.code == -9 or (fault.after is not None and ending.code == 0)
    elif fault.interrupts:
        reported = ending.code == INTERRUPTED and ending.said.endswith(f"{GO_ON}\n")
        expected = reported or ending.code in (0, OUTSIDE)
    else:
        lines = ending.said.splitlines()
        reported = ending.code == 1 and lines and lines[-1].startswith("error: ")
        expected = reported or ending.code == 0
    if not expected:
        problems.append(f"it ended with {ending.code}: {ending.said}")
    if left and not fault.kills:
        problems.append(f"it left {', '.join(left)}")
    return problems


def looked_at_and_run(materials: Materials, stage: Stage, folder: Path) -> Callable[[], int]:
    """Return work for one child: check that whatever opens has its final bytes, then run the command again."""
    whole = contents(materials.whole(stage.name) / stage.result)
    work = stage.work(materials, folder)

    def both() -> int:
        opened = stage.opened(folder / stage.result)
        half = [name for name, data in opened.items() if whole.get(name) != data]
        if half:
            print("opens although it is half-written:", *half)
            return 98
        return work()

    return both


def differences(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    kinds = {
        "missing in the end": [name for name in expected if name not in found],
        "too much in the end": [name for name in found if name not in expected],
        "other bytes in the end": [
            name for name in expected if found.get(name, expected[name]) != expected[name]
        ],
    }
    return [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
