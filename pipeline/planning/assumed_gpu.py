"""GPUs that were not measured: each figure is an assumption with its source, and a plan prints those it uses."""

from dataclasses import dataclass

from pipeline.planning.loss_cost import LossCost

# An A100 of 40 GB: images/s training a ResNet-50 in mixed precision (NVIDIA DeepLearningExamples, PyTorch container
# 21.03), operations/s of products and bytes/s of memory (NVIDIA's datasheet).
A100_RESNET50, A100_PRODUCTS, A100_MEMORY = 2470.0, {"TF32": 156e12, "FP32": 19.5e12}, 1.555e12
# Bytes/s of an A100's NVLink in one direction, and of the eight 200 Gb/s adapters of a DGX A100 (NVIDIA's datasheets).
NVLINK, NETWORK, GPUS_OF_MACHINE = 300e9, 200e9, 8
OF_PEAK = 0.7  # share of a peak that is reached
LAUNCH = 10e-6  # seconds in which PyTorch starts one operation


@dataclass(frozen=True, kw_only=True)
class AssumedGpu:
    """A GPU that trains a ResNet-50 with `rate` images/s: its products and memory are an A100's, times rate / 2,470.

    tf32: whether the products of the loss are in TF32.
    """

    rate: float
    tf32: bool

    @property
    def products(self) -> float:
        """Operations/s of large matrix products."""
        return OF_PEAK * A100_PRODUCTS["TF32" if self.tf32 else "FP32"] * self.rate / A100_RESNET50

    @property
    def memory(self) -> float:
        """Bytes/s read from or written to the device's memory."""
        return OF_PEAK * A100_MEMORY * self.rate / A100_RESNET50

    def loss_seconds(self, loss: LossCost) -> float:
        """Return the seconds of a step's loss: its products or what they read, whichever is longer, and the rest."""
        return max(loss.flops / self.products, loss.operands / self.memory) + loss.traffic / self.memory

    def describe(self) -> str:
        """Describe the figures and their source in a phrase."""
        kind = "TF32" if self.tf32 else "FP32"
        return (
            f"{kind} products at {self.products / 1e12:,.0f} TFLOP/s and memory at {self.memory / 1e9:,.0f} GB/s, "
            f"{OF_PEAK:.0%} of an A100's peaks (NVIDIA's datasheet) times the rate / {A100_RESNET50:,.0f}"
        )


def exchange_rate(gpus: int) -> float:
    """Return the bytes/s at which each of some GPUs sends to the others, in one machine or over its network."""
    return OF_PEAK * (NVLINK if gpus <= GPUS_OF_MACHINE else NETWORK)


def exchange_seconds(gpus: int, parameters: int, loss: LossCost) -> float:
    """Return the seconds in which a step's gradients are reduced and the loss exchanges rows; 0 for one GPU."""
    return (2 * parameters * (gpus - 1) / gpus + loss.exchanged) / exchange_rate(gpus) if gpus > 1 else 0.0


def describe_exchange(gpus: int) -> str:
    """Describe how GPUs are connected, in a phrase."""
    source = "an A100's NVLink" if gpus <= GPUS_OF_MACHINE else "the eight 200 Gb/s adapters of a DGX A100"
    return f"{exchange_rate(gpus) / 1e9:,.0f} GB/s between GPUs, {OF_PEAK:.0%} of {source}"
