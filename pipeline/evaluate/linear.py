"""Linear probe: one linear layer on frozen features.

The protocol of CompRess (Abbasi Koohpayegani, Tejankar, Pirsiavash, NeurIPS 2020, arXiv 2010.14713): features
are L2-normalized, then standardized by the mean and variance of the training set's centre-crop features.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.evaluate.features import LabeledFeatures, require_comparable
from pipeline.runtime.device import CPU
from pipeline.runtime.prefetch import prefetch

EPOCHS = 40
BATCH_ROWS = 256
LEARNING_RATE = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
WEIGHTS_PER_THREAD = 65_536
SUMMED_ROWS = 4_096
BATCHES_AHEAD = 4  # gathering scattered rows takes as long as a step on them
VARIANCE_FLOOR = 1e-5  # the authors' value; keeps a constant feature at 0

EpochBatches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


class LinearProbe(nn.Module):
    """Normalize, standardize and classify: features (B, D) float32 -> logits (B, classes).

    mean and variance (D,) are those of the unit-length training features; only the linear layer is trained.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, variance: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", (variance + VARIANCE_FLOOR).rsqrt())
        self.linear = nn.Linear(len(mean), classes)

    def standardized(self, features: Tensor) -> Tensor:
        """Return the input of the linear layer, (B, D)."""
        return (F.normalize(features, dim=1) - self.mean) * self.scale

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.standardized(features))


def evaluate(
    train: LabeledFeatures,
    val: LabeledFeatures,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    device: torch.device = CPU,
    batches: EpochBatches | None = None,
    name: str = "linear",
) -> Iterator[tuple[str, float]]:
    """Train a linear probe and yield its `accuracies` on val.

    It trains on the stored features of train, or on batches(epoch), which yields features (B, D) float32 and labels
    (B,) int64, for example of random crops. Either way, features are standardized by those of train.

    Raises PipelineError when train and val differ in dim or classes, or the loss is not finite.
    """
    require_comparable(train, val)
    probe = new_probe(train, seed).to(device)
    if batches is None:
        with _few_threads(probe.linear.weight.numel()):
            train_probe(probe, cached_batches(train, seed), epochs, device)
    else:
        train_probe(probe, _of_unit_length(batches), epochs, device)
    yield from accuracies(probe, val, device, name)


def new_probe(train: LabeledFeatures, seed: int) -> LinearProbe:
    """Return a probe standardized by train, its linear layer initialized from the seed, not the global generator."""
    mean, variance = mean_and_variance(train)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
        return LinearProbe(mean, variance, train.classes)


def mean_and_variance(train: LabeledFeatures) -> tuple[Tensor, Tensor]:
    """Return the mean and the unbiased variance of each dimension, (D,) float32 each, summed in float64 by blocks."""
    total = torch.zeros(2, train.embedding.shape[1], dtype=torch.float64)
    for block in torch.from_numpy(train.embedding).split(SUMMED_ROWS):
        rows = block.double()
        total += torch.stack([rows.sum(dim=0), rows.square_().sum(dim=0)])
    count = len(train.embedding)
    mean, square = total / count
    return mean.float(), ((square - mean.square()).clamp(min=0) * (count / max(count - 1, 1))).float()


def cached_batches(train: LabeledFeatures, seed: int) -> EpochBatches:
    """Return a function from epoch to batches of 256 stored rows, in an order that depends on (seed, epoch) alone."""
    features, labels = torch.from_numpy(train.embedding), torch.from_numpy(train.label)

    def gathered(rows: Tensor) -> tuple[Tensor, Tensor]:
        return features.index_select(0, rows), labels.index_select(0, rows)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(labels)))
        for several in prefetch(gathered, order.split(BATCH_ROWS * BATCHES_AHEAD), threads=1, ahead=1):
            yield from zip(*(part.split(BATCH_ROWS) for part in several), strict=True)

    return batches


def learning_rate(epoch: int, epochs: int = EPOCHS) -> float:
    """Return 0.01, divided by ten at 3/8 and again at 3/4 of the epochs (15 and 30 of 40)."""
    drops = (8 * epoch >= 3 * epochs) + (4 * epoch >= 3 * epochs)
    return LEARNING_RATE * 0.1**drops


def train_probe(probe: LinearProbe, batches: EpochBatches, epochs: int, device: torch.device) -> None:
    """Train probe.linear in place with SGD on cross-entropy. batches: as in evaluate, of unit-length rows.

    Raises PipelineError when the loss is not finite.
    """
    descent = Descent(probe)
    for epoch in range(epochs):
        last: tuple[Tensor, Tensor] | None = None
        for features, labels in batches(epoch):
            last = features.to(device), labels.to(device)
            descent.step(*last, learning_rate(epoch, epochs))
        loss = descent.loss(*last) if last else math.nan
        # a weight that is not finite stays so, hence the last loss of an epoch is enough
        if not math.isfinite(loss):
            raise PipelineError(
                f"the linear probe's loss is {loss} after epoch {epoch + 1} of {epochs}; "
                "check that there are batches and that the backbone's features are finite"
            )
    descent.finish()


class Descent:
    """SGD with momentum and weight decay on a probe's linear layer, with hand-written gradients.

    For logits ((x - mean) * scale) W' + b it stores V = W * scale: the logits are x V' + (b - V mean), so no row needs
    to be standardized. The velocity is that of W divided by scale. A step of 256 rows of 512 dimensions takes half as
    long as with autograd.
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
        """Return the logits (classes, B) of unit-length rows (B, D)."""
        offset = self.bias - self.weight @ self.probe.mean
        return torch.addmm(offset[:, None], self.weight, rows.T)

    @torch.inference_mode()
    def loss(self, rows: Tensor, labels: Tensor) -> float:
        """Return the mean cross-entropy of a batch."""
        return F.cross_entropy(self.logits(rows).T, labels).item()

    @torch.inference_mode()
    def step(self, rows: Tensor, labels: Tensor, rate: float) -> None:
        """Take one step on unit-length rows (B, D) and labels (B,) with learning rate `rate`."""
        count = len(labels)
        error = self.logits(rows).softmax(dim=0)  # (classes, B), softmax minus one-hot
        error.scatter_add_(0, labels[None], self.minus_one.expand(1, count))
        bias_gradient = error.sum(dim=1).div_(count)
        self.velocity.addmm_(error, rows, beta=MOMENTUM, alpha=1 / count)
        self.velocity.addr_(bias_gradient, self.probe.mean, alpha=-1).addcmul_(self.weight, self.decay)
        self.bias_velocity.mul_(MOMENTUM).add_(bias_gradient).add_(self.bias, alpha=WEIGHT_DECAY)
        self.weight.addcmul_(self.velocity, self.scale_squared, value=-rate)
        self.bias.sub_(self.bias_velocity, alpha=rate)

    def finish(self) -> None:
        """Write the trained weights to the probe."""
        with torch.no_grad():
            self.probe.linear.weight.copy_(self.weight / self.probe.scale)
            self.probe.linear.bias.copy_(self.bias)


def _of_unit_length(batches: EpochBatches) -> EpochBatches:
    def normalized(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for features, labels in batches(epoch):
            yield F.normalize(features, dim=1), labels

    return normalized


@contextmanager
def _few_threads(weights: int) -> Iterator[None]:
    # A step of a small layer takes a fraction of a millisecond on one thread. With two threads on a busy machine, every
    # operation waits for the other thread to get a core: 8 ms per step.
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 1 + weights // WEIGHTS_PER_THREAD))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def accuracies(
    classifier: nn.Module, val: LabeledFeatures, device: torch.device, name: str
) -> Iterator[tuple[str, float]]:
    """Yield (name, top-1 accuracy on val) and, with more than five classes, (name_top5, top-5 accuracy).

    classifier: a module from features (B, D) float32 to logits (B, classes).
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
