"""Linear evaluation: one linear layer on frozen features.

The protocol of CompRess (Abbasi Koohpayegani, Tejankar, Pirsiavash, NeurIPS 2020, arXiv 2010.14713): features
are L2-normalised, then standardised by the fixed mean and variance of the train set's centre-crop features.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.evaluate.features import Features, require_comparable
from pipeline.runtime.prefetch import prefetch

EPOCHS = 40
BATCH_ROWS = 256
LEARNING_RATE = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
WEIGHTS_PER_THREAD = 65_536
SUMMED_ROWS = 4_096
BATCHES_AHEAD = 4  # to gather scattered rows takes as long as to descend on them
VARIANCE_FLOOR = 1e-5  # the authors' value; keeps a feature that is the same for every train image at 0

EpochBatches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


class LinearProbe(nn.Module):
    """Normalise, standardise, classify: features (B, D) float32 -> logits (B, classes).

    mean and variance (D,) are those of the unit-length train features; only the linear layer is trained.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, variance: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", (variance + VARIANCE_FLOOR).rsqrt())
        self.linear = nn.Linear(len(mean), classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear((F.normalize(features, dim=1) - self.mean) * self.scale)


def evaluate(
    train: Features,
    val: Features,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    device: str = "cpu",
    batches: EpochBatches | None = None,
    name: str = "linear",
) -> Iterator[tuple[str, float]]:
    """Yields what `accuracies` does for val.

    Trains on the stored train features, or on what batches(epoch) yields: (features (B, D) float32, labels
    (B,) int64), such as a frozen backbone's over random crops. Either way train standardises and val tests.

    Raises:
        PipelineError: train and val do not belong together, or the loss is not finite.
    """
    require_comparable(train, val)
    probe = new_probe(train, seed).to(device)
    if batches is None:
        with _few_threads(probe.linear.weight.numel()):
            train_probe(probe, cached_batches(train, seed), epochs, device)
    else:
        train_probe(probe, _of_unit_length(batches), epochs, device)
    yield from accuracies(probe, val, device, name)


def new_probe(train: Features, seed: int) -> LinearProbe:
    """A probe standardised by train, its linear layer drawn from the seed, not the global generator."""
    mean, variance = mean_and_variance(train)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs as well
        return LinearProbe(mean, variance, train.classes)


def mean_and_variance(train: Features) -> tuple[Tensor, Tensor]:
    """Of each dimension, (D,) float32 each, with n - 1 below; summed in float64, block by block."""
    total = torch.zeros(2, train.embedding.shape[1], dtype=torch.float64)
    for block in torch.from_numpy(train.embedding).split(SUMMED_ROWS):
        rows = block.double()
        total += torch.stack([rows.sum(dim=0), rows.square_().sum(dim=0)])
    count = len(train.embedding)
    mean, square = total / count
    return mean.float(), ((square - mean.square()).clamp(min=0) * (count / max(count - 1, 1))).float()


def cached_batches(train: Features, seed: int) -> EpochBatches:
    """Every stored row once, 256 a batch but for the last; the order depends on (seed, epoch) alone."""
    features, labels = torch.from_numpy(train.embedding), torch.from_numpy(train.label)

    def gathered(rows: Tensor) -> tuple[Tensor, Tensor]:
        return features.index_select(0, rows), labels.index_select(0, rows)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(labels)))
        for several in prefetch(gathered, order.split(BATCH_ROWS * BATCHES_AHEAD), threads=1, most=1):
            yield from zip(*(part.split(BATCH_ROWS) for part in several), strict=True)

    return batches


def learning_rate(epoch: int, epochs: int = EPOCHS) -> float:
    """0.01, ten times smaller from 3/8 and again from 3/4 of the epochs on: from 15 and 30 of 40."""
    drops = (8 * epoch >= 3 * epochs) + (4 * epoch >= 3 * epochs)
    return LEARNING_RATE * 0.1**drops


def train_probe(probe: LinearProbe, batches: EpochBatches, epochs: int, device: str) -> None:
    """Trains probe.linear in place by SGD on cross-entropy; batches as in evaluate, of rows of unit length.

    Raises:
        PipelineError: the loss is not finite.
    """
    descent = Descent(probe)
    for epoch in range(epochs):
        last: tuple[Tensor, Tensor] | None = None
        for features, labels in batches(epoch):
            last = features.to(device), labels.to(device)
            descent.step(*last, learning_rate(epoch, epochs))
        loss = descent.loss(*last) if last else math.nan
        # A weight that is not finite never recovers, so the last loss of an epoch tells for all of them.
        if not math.isfinite(loss):
            raise PipelineError(
                f"the linear probe's loss is {loss} after epoch {epoch + 1} of {epochs}; "
                "check that there are batches and that the backbone's features are finite"
            )
    descent.finish()


class Descent:
    """SGD with momentum and weight decay on a probe's linear layer, its gradient written out.

    Of ((x - mean) * scale) W' + b it keeps V = W * scale: then x V' + (b - V mean) are the logits, and no row has to be
    standardised. The velocity is that of W over scale. A step of 256 rows of 512 takes half as long as by autograd.
    """

    def __init__(self, probe: LinearProbe) -> None:
        self.probe = probe
        self.weight = probe.linear.weight.detach() * probe.scale
        self.bias = probe.linear.bias.detach().clone()
        self.velocity, self.bias_velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.scale_squared = probe.scale.square()
        self.decay = WEIGHT_DECAY / self.scale_squared
        self.minus_one = self.bias.new_full((1, 1), -1)

    def logits(self, rows: Tensor) -> Tensor:
        """(B, D) of unit length -> (classes, B)."""
        offset = self.bias - self.weight @ self.probe.mean
        return torch.addmm(offset[:, None], self.weight, rows.T)

    @torch.inference_mode()
    def loss(self, rows: Tensor, labels: Tensor) -> float:
        """The mean cross-entropy of a batch."""
        return F.cross_entropy(self.logits(rows).T, labels).item()

    @torch.inference_mode()
    def step(self, rows: Tensor, labels: Tensor, rate: float) -> None:
        """One step on rows (B, D) of unit length and labels (B,)."""
        count = len(labels)
        error = self.logits(rows).softmax(dim=0)  # of each logit (classes, B): softmax less one-hot
        error.scatter_add_(0, labels[None], self.minus_one.expand(1, count))
        bias_gradient = error.sum(dim=1).div_(count)
        self.velocity.addmm_(error, rows, beta=MOMENTUM, alpha=1 / count)
        self.velocity.addr_(bias_gradient, self.probe.mean, alpha=-1).addcmul_(self.weight, self.decay)
        self.bias_velocity.mul_(MOMENTUM).add_(bias_gradient).add_(self.bias, alpha=WEIGHT_DECAY)
        self.weight.addcmul_(self.velocity, self.scale_squared, value=-rate)
        self.bias.sub_(self.bias_velocity, alpha=rate)

    def finish(self) -> None:
        """Give the probe its weights."""
        with torch.no_grad():
            self.probe.linear.weight.copy_(self.weight / self.probe.scale)
            self.probe.linear.bias.copy_(self.bias)


def _of_unit_length(batches: EpochBatches) -> EpochBatches:
    def normalised(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for features, labels in batches(epoch):
            yield F.normalize(features, dim=1), labels

    return normalised


@contextmanager
def _few_threads(weights: int) -> Iterator[None]:
    # A small layer's step takes a fraction of a millisecond on one thread; on two threads of a busy machine each of
    # its operations waits for the other thread to get a core, 8 ms in all.
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 1 + weights // WEIGHTS_PER_THREAD))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def accuracies(classifier: nn.Module, val: Features, device: str, name: str) -> Iterator[tuple[str, float]]:
    """(name, top-1) and, with more than five classes, (name_top5, top-5) of val as fractions.

    classifier: features (B, D) float32 -> logits (B, classes).
    """
    ranked = min(5, val.classes)
    hits = torch.zeros(ranked)
    batches = torch.from_numpy(val.embedding).split(BATCH_ROWS), torch.from_numpy(val.label).split(BATCH_ROWS)
    for features, labels in zip(*batches, strict=True):
        top = classifier(features.to(device)).topk(ranked, dim=1).indices.cpu()
        hits += (top == labels[:, None]).sum(dim=0)
    yield name, hits[0].item() / len(val.label)
    if val.classes > 5:
        yield f"{name}_top5", hits.sum().item() / len(val.label)
