"""`python -m tests.gpu.rates --out FOLDER`: what a GPU does per second, as FOLDER/rates.json.

Rehearse it on the CPU with GPU_CHECK_DEVICE=cpu: everything runs, in small, and the numbers mean nothing.
"""

import json
import os
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from cache.durable import write_file
from pipeline.errors import WrongUse
from pipeline.images.pack import pack
from pipeline.runtime.device import gpu_record, resolve_device
from pipeline.runtime.distributed import use_all_cores
from pipeline.runtime.precision import choose_algorithms
from pipeline.runtime.provenance import provenance
from pipeline.settings.commands import PackConfig
from tests.benchmarks.photographs import write_photographs
from tests.benchmarks.written_store import written_store


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured. seconds: of each measurement. steps: of the run of `distill`."""

    seconds: float = 0.3
    image_size: int = 224
    photograph: int = 400
    images: int = 2048
    batch: int = 256
    dim: int = 2048
    anchors: int = 131_072
    batches: tuple[int, ...] = (256, 1024)
    dims: tuple[int, ...] = (512, 2048, 8192)
    threads: tuple[int, ...] = (1, 2, 4, 8, 16)
    students: tuple[str, ...] = ("resnet18", "resnet50")
    teachers: tuple[str, ...] = ("moco_v2_resnet50", "simclr_resnet50x4")
    steps: int = 200


FULL = Scale()
REHEARSAL = Scale(
    seconds=0.01, image_size=32, photograph=64, images=32, batch=8, dim=64, anchors=512, batches=(8,),
    dims=(64,), threads=(1, 2), students=("resnet18",), teachers=("pixels",), steps=8,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the measurements share: the device, their scale, a packed dataset of photographs, and a cache of it."""

    device: torch.device
    scale: Scale
    folder: Path

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def cache(self) -> Path:
        return self.folder / "cache.zarr"


def bench_of(device: torch.device, scale: Scale, folder: Path) -> Bench:
    """Write the photographs, the dataset and the cache into a folder."""
    from pipeline.images.dataset import open_dataset

    size = (scale.photograph, scale.photograph)
    pack(PackConfig(data=write_photographs(folder / "images", scale.images, size), out=folder / "dataset"))
    split = open_dataset(folder / "dataset").split("train")
    written_store(
        folder / "cache.zarr", rows=split.rows, dim=scale.dim, dataset=split.identity, labels=split.labels,
        thumbs=split.thumbs,
    )  # fmt: skip
    return Bench(device=device, scale=scale, folder=folder)


def measured(bench: Bench, sections: dict[str, Callable[[Bench], Any]]) -> dict[str, Any]:
    """Return what each section measures. One that fails is recorded with its error, and the others go on."""
    found: dict[str, Any] = {}
    for name, section in sections.items():
        click.echo(f"{name} ...", err=True)
        try:
            found[name] = section(bench)
        except Exception as error:  # whatever a driver or a library raises
            traceback.print_exc()
            found[name] = {"error": str(error).strip().splitlines()[0]}
    return found


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="folder to write"
)
def main(out: Path) -> None:
    """Measure copies, products, the loss, training steps, the loader, stage one and a whole run on a GPU."""
    from tests.gpu.step_rates import STEP_SECTIONS
    from tests.gpu.whole_rates import WHOLE_SECTIONS

    try:
        device = resolve_device(os.environ.get("GPU_CHECK_DEVICE", "cuda"))
    except WrongUse as error:
        raise click.ClickException(str(error)) from error
    use_all_cores()
    choose_algorithms(device, deterministic=False)
    with tempfile.TemporaryDirectory(prefix="gpu-rates-") as folder:
        bench = bench_of(device, REHEARSAL if device.type == "cpu" else FULL, Path(folder))
        found = measured(bench, STEP_SECTIONS | WHOLE_SECTIONS)
    out.mkdir(parents=True, exist_ok=True)
    content = provenance() | gpu_record(device) | {"cores": len(os.sched_getaffinity(0)), "rates": found}
    write_file(out / "rates.json", (json.dumps(content, indent=1) + "\n").encode())
    failed = [name for name, values in found.items() if "error" in values]
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
