"""Training batches for a detector: VOC images, decoded ahead and randomly flipped, with their boxes."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from pipeline.errors import PipelineError
from pipeline.evaluate.voc.data import VocSplit
from pipeline.runtime.prefetch import prefetch

IMAGES_AHEAD = 16


def batches(
    train: VocSplit, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Yield every image once, in batches; order and flips depend on (seed, epoch) alone."""
    draws = np.random.default_rng([seed, epoch])
    order, flipped = draws.permutation(len(train.images)), draws.random(len(train.images)) < 0.5
    numbers = {name: label for label, name in enumerate(train.classes(), start=1)}

    def prepare(row: int) -> tuple[Tensor, dict[str, Tensor]]:
        return example(train, row, numbers, bool(flipped[row]))

    images, targets = [], []
    for image, target in prefetch(prepare, order.tolist(), torch.get_num_threads(), IMAGES_AHEAD):
        images.append(image)
        targets.append(target)
        if len(images) == batch_size:
            yield images, targets
            images, targets = [], []
    if images:
        yield images, targets


def example(
    split: VocSplit, row: int, numbers: dict[str, int], flip: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image (3, H, W) in [0, 1] and its objects: boxes (m, 4) px, labels (m,). Difficult ones are left out.

    Raises PipelineError for a box that lies outside the image.
    """
    image = split.image(row)
    kept = [thing for thing in split.objects[row] if not thing.difficult]
    boxes = torch.tensor([thing.box for thing in kept], dtype=torch.float32).reshape(-1, 4)
    limit = torch.tensor([image.width, image.height] * 2)
    if (boxes > limit).any():
        raise PipelineError(
            f"an object on {split.images[row]} of {split.folder} lies outside of its {image.width} x "
            f"{image.height} px; correct the annotation"
        )
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes[:, [0, 2]] = image.width - boxes[:, [2, 0]]
    labels = torch.tensor([numbers[thing.name] for thing in kept], dtype=torch.int64)
    return to_tensor(image), {"boxes": boxes, "labels": labels}
