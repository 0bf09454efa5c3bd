"""Features of random crops from a frozen student: the training batches of the paper's linear probe."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluate.linear import EpochBatches
from pipeline.images.dataset import Dataset
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.results.run_record import read_config
from pipeline.runtime.distributed import ALONE, World, all_gather
from pipeline.settings.commands import EvalConfig
from pipeline.teachers.backbone_spec import BackboneSpec


def augmented_batches(
    run: Path,
    dataset: Dataset,
    config: EvalConfig,
    device: torch.device,
    world: World = ALONE,
    layer: str | None = None,
) -> EpochBatches:
    """Return a function from epoch to batches of features (B, D) float32 and labels (B,), the same on all ranks.

    Batches cover the labelled training images; each rank embeds its part of a batch. layer: take the output of this
    layer instead of the student's feature. The student stays in eval mode, so neither its weights nor its running
    statistics change. Raises WrongUse if the batch cannot be divided among the ranks.
    """
    split = dataset.splits["train"]
    backbone = BackboneSpec(kind="run", run=run, layer=layer).load()
    image_size = read_config(run)["config"]["image_size"]
    module = backbone.module.to(device).to(memory_format=torch.channels_last)
    rows = np.flatnonzero(split.readable & (split.labels >= 0))
    share = min(world.local_batch_size(config.batch_size), len(rows) // world.size)
    order = Order(rows=rows, batch=share, seed=config.seed, rank=world.rank, world=world.size)
    loader = ImageLoader(
        split.beton,
        order,
        image_size=image_size,
        crops=(RandomCrop(),),
        seed=config.seed,
        device=device,
    )

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader.epoch(epoch):
            with torch.no_grad():
                features = module(batch.images[0]).float()
            yield all_gather(features), all_gather(batch.labels)

    return batches
