"""Warnings about embeddings that are nearly alike for all images, as after a wrong normalization."""

import sys

from cache.reader import Split
from cache.rows import spread
from pipeline.models.backbone import Backbone, mean_cosine

ALIKE = 0.999  # mean cosine
ROWS_COMPARED = 256


def warn_of_alike_features(backbone: Backbone) -> None:
    """Print a warning to stderr if a backbone gives a black, a white and a noisy image nearly the same feature."""
    if backbone.likeness > ALIKE:
        print(
            f"warning: {backbone.name} embeds a black, a white and a noisy image nearly alike (mean cosine "
            f"{backbone.likeness:.5f}); check the mean and std of its preprocessing, which are for pixels from 0 to 1, "
            "and its weights",
            file=sys.stderr,
        )


def warn_of_alike_rows(split: Split) -> None:
    """Print a warning to stderr if a sample of a split's rows is nearly alike; absent chunks are left out."""
    rows = spread(split.eligible(), ROWS_COMPARED)
    cosine = mean_cosine(split.gather(rows))
    if cosine > ALIKE:
        print(
            f"warning: the rows of {split.name} are nearly alike (mean cosine {cosine:.5f} over {len(rows)} rows): "
            "unless its images are, the network's preprocessing or weights are wrong",
            file=sys.stderr,
        )
