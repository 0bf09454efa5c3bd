"""Stage one against a hand-written loop that runs the same teacher and writes one .npy."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from cache.reader import open_store
from pipeline.embedding.cache_teacher import embed
from pipeline.embedding.dask_workers import open_client
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.pack import pack
from pipeline.images.preprocessing import IMAGENET
from pipeline.runtime.device import CPU
from pipeline.settings.commands import PackConfig
from pipeline.teachers.backbone_spec import BackboneSpec
from tests.benchmarks.figure import Figure, ratio
from tests.benchmarks.photographs import write_photographs

ROUNDS, WORKERS = 5, 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """A teacher at a size. images: in each split; a split is one chunk, so each worker gets one."""

    arch: str
    size: int
    original: tuple[int, int]
    images: int
    batch: int


CASES = (
    Case(arch="resnet50", size=224, original=(500, 375), images=48, batch=16),
    Case(arch="resnet18", size=64, original=(64, 64), images=768, batch=128),
)


def measure(folder: Path) -> Iterator[Figure]:
    """Time both with two workers on two cores, without their start."""
    with open_client(workers=WORKERS, threads=1, device=CPU, scheduler=None) as client:
        for case in CASES:
            place = folder / case.arch
            for number, split in enumerate(("train", "val")):
                write_photographs(place / "images" / split, case.images, case.original, seed=number)
            pack(PackConfig(data=place / "images", out=place / "dataset"))
            yield compared(case, place, open_dataset(place / "dataset"), client.scheduler.address)


def compared(case: Case, place: Path, dataset: Dataset, scheduler: str) -> Figure:
    weights, module = written_weights(case, place)
    seconds: dict[str, list[float]] = {"cache-teacher": [], "hand-written": []}
    for turn in range(-1, ROUNDS):
        store = place / f"teacher-{turn}.zarr"
        report = embed(
            BackboneSpec(
                kind="teacher", name=f"torchvision/{case.arch}", weights=weights, image_size=case.size
            ),
            dataset,
            store,
            batch_size=case.batch,
            scheduler=scheduler,
        )
        began = time.perf_counter()
        by_hand(module, place / "images", case, place / "teacher.npy")
        if turn >= 0:
            seconds["cache-teacher"].append(report.seconds)
            seconds["hand-written"].append(time.perf_counter() - began)
    require_equal(store, place / "teacher.npy")
    rate = {name: 2 * case.images / statistics.median(of) for name, of in seconds.items()}
    rate["forward alone"] = forward_rate(module, case)
    return Figure(
        name=f"stage-one-{case.arch}",
        what=f"stage one, {case.arch} at {case.size} px, {WORKERS} workers",
        against="a loop over ImageFolder and DataLoader(2) that writes one .npy",
        ratio=ratio(seconds, "hand-written", "cache-teacher"),
        unit="x its speed",
        at_least=1.0,
        seconds=seconds,
        bound=(
            f"the network's arithmetic: {rate['cache-teacher']:.1f} rows/s here, {rate['hand-written']:.1f} by hand, "
            f"and {rate['forward alone']:.1f} images/s by forward passes alone on two threads, channels last"
        ),
        details={"rows a second": rate, "images": 2 * case.images, "batch": case.batch},
    )


def written_weights(case: Case, place: Path) -> tuple[Path, nn.Module]:
    """Return a file of random weights, and the network with them and without its classifier."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, case.arch)(weights=None)
    torch.save(network.state_dict(), place / "weights.pth")
    network.fc = nn.Identity()
    return place / "weights.pth", network.eval()


def by_hand(module: nn.Module, images: Path, case: Case, out: Path) -> None:
    """Run centre crops through the network and write unit rows to one file of float16."""
    wanted = IMAGENET.at(case.size)
    transform = transforms.Compose(
        [
            transforms.Resize(wanted.resize),
            transforms.CenterCrop(wanted.crop),
            transforms.ToTensor(),
            transforms.Normalize(wanted.mean, wanted.std),
        ]
    )
    loader = DataLoader(ImageFolder(images, transform), batch_size=case.batch, num_workers=WORKERS)
    with torch.inference_mode():
        rows = [F.normalize(module(images), dim=1).half() for images, _ in loader]
    np.save(out, torch.cat(rows).numpy())


def forward_rate(module: nn.Module, case: Case) -> float:
    """Return the images/s of forward passes alone on all threads, channels last."""
    module = module.to(memory_format=torch.channels_last)
    images = torch.zeros(case.batch, 3, case.size, case.size)
    passes = case.images // case.batch
    with torch.inference_mode():
        module(images)
        began = time.perf_counter()
        for _ in range(passes):
            module(images)
    return passes * case.batch / (time.perf_counter() - began)


def require_equal(store: Path, file: Path) -> None:
    """Raise AssertionError unless the file holds the store's rows, split after split."""
    splits = [open_store(store).split(name) for name in ("train", "val")]
    ours = np.concatenate([split.gather(np.arange(split.shape.rows)) for split in splits]).astype(np.float32)
    cosine = (ours * np.load(file).astype(np.float32)).sum(axis=1)
    assert cosine.min() > 0.999, f"a row has cosine {cosine.min()} to the same row by hand"
