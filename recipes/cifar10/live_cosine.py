"""How near a live teacher's embedding of the crop that a student sees is to the cached one of that view.

    python -m recipes.cifar10.live_cosine data/cifar10-20k caches/cifar10-20k-views.zarr

The cached one is of the original image; the live one of the .beton, which may be smaller and encoded again.
views.toml makes the cache.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cache.metadata import read_split_attributes
from cache.reader import open_store
from pipeline.images.dataset import open_dataset
from pipeline.runtime.device import CPU
from pipeline.settings.training import DistillConfig
from pipeline.training.live_teacher import open_live_teacher

IMAGES, BATCH, VIEW = 2_048, 128, 1


def main(dataset: Path, cache: Path) -> None:
    store, images = open_store(cache), open_dataset(dataset).split("train")
    split, (_, _, scale) = store.split("train"), read_split_attributes(store.path, "train")
    assert scale, f"{cache} has no random views"
    # view 1 is the crop that a student with seed 0 sees in epoch 0
    config = DistillConfig(dataset=dataset, cache=cache, run=Path("none"), seed=0, crop_scale=scale)
    live = open_live_teacher(config, store, images, CPU)
    rows = np.random.default_rng(0).choice(split.eligible(), IMAGES, replace=False)
    cosines = []
    for some in torch.from_numpy(rows).split(BATCH):
        found = live.embed(live.crops.of(some, VIEW - 1))
        cached = torch.from_numpy(split.gather(some.numpy(), VIEW)).float()
        cosines.append(F.cosine_similarity(found, cached).numpy())
    found = np.concatenate(cosines)
    low, median = np.quantile(found, [0.05, 0.5])
    print(f"{len(found):,} images: mean {found.mean():.4f}, median {median:.4f}, 5 % below {low:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
