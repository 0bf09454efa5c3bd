"""How near a live teacher's embedding of the crop that a student sees is to the cached one of that view.

    python -m recipes.cifar10.live_cosine data/cifar10-20k caches/cifar10-20k-views.zarr 32

The cache's is of the original image, cropped and resized once; the live one is of the student's crop of 32 px, resized
again to the teacher's 96. views.toml makes the cache.
"""

import sys
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from cache.reader import open_store
from pipeline.images.dataset import open_dataset
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.replay import Replay
from pipeline.runtime.device import CPU
from pipeline.settings.training import DistillConfig
from pipeline.training.live_teacher import open_live_teacher

IMAGES, BATCH = 2_048, 128


def main(dataset: Path, cache: Path, image_size: int) -> None:
    store = open_store(cache)
    split = store.split("train")
    live = open_live_teacher(DistillConfig(dataset=dataset, cache=cache, run=Path("none")), store, CPU)
    loader = ImageLoader(
        open_dataset(dataset).split("train").beton,
        Order(rows=np.random.default_rng(0).choice(split.eligible(), IMAGES, replace=False), batch=BATCH),
        image_size=image_size,
        teacher=split,
        replay=Replay(split, 1),
    )
    cosines = []
    for batch in loader.epoch(0):
        found = live.add_embeddings(batch).teacher
        assert found is not None
        assert batch.teacher is not None
        cosines.append(F.cosine_similarity(found, batch.teacher.float()).numpy())
    found = np.concatenate(cosines)
    low, median = np.quantile(found, [0.05, 0.5])
    print(
        f"{len(found):,} images of {image_size} px: mean {found.mean():.4f}, median {median:.4f}, 5 % below {low:.4f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
