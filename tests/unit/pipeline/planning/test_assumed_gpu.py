"""Assumed GPUs: seconds from planted costs by hand, and the sources that a plan prints."""

import pytest
from torch import nn

from pipeline.models.students import build_student
from pipeline.planning.assumed_gpu import AssumedGpu, describe_exchange, exchange_seconds
from pipeline.planning.loss_cost import LossCost
from pipeline.planning.network_cost import parameter_bytes
from pipeline.planning.network_families import FAMILIES, family_of, relative_speed


def planted(**costs: int) -> LossCost:
    zero = dict.fromkeys(("flops", "bytes", "launches", "operands", "traffic", "exchanged"), 0)
    return LossCost(**{**zero, **costs})


def test_the_loss_takes_its_products_or_their_reading_and_its_traffic() -> None:
    """An A100's TF32 products do 109.2 TFLOP/s at 70 % of the peak, its memory 1,088.5 GB/s."""
    a100 = AssumedGpu(rate=2470, tf32=True)
    milliseconds = {"flops": 109_200_000_000, "operands": 1_088_500_000, "traffic": 1_088_500_000}
    assert a100.loss_seconds(planted(**milliseconds)) == pytest.approx(0.002)
    assert a100.loss_seconds(planted(**{**milliseconds, "operands": 3 * 1_088_500_000})) == pytest.approx(
        0.004
    )
    assert AssumedGpu(rate=4940, tf32=True).loss_seconds(planted(**milliseconds)) == pytest.approx(0.001)
    # FP32 products are 8 times as slow
    assert AssumedGpu(rate=2470, tf32=False).loss_seconds(planted(**milliseconds)) == pytest.approx(0.009)


def test_the_gradients_of_a_resnet50_with_a_head_of_8192_are_161_mb() -> None:
    network = nn.Sequential(build_student("resnet50", image_size=224, seed=0), nn.Linear(2048, 8192))
    assert parameter_bytes(network) == 161_173_760
    # a ring sends 7/8 of them twice: over NVLink at 210 GB/s, and 31/32 over the network at 140
    assert exchange_seconds(8, 161_173_760, planted()) == pytest.approx(2 * 161_173_760 * 7 / 8 / 210e9)
    assert exchange_seconds(32, 161_173_760, planted(exchanged=140_000_000)) == pytest.approx(
        2 * 161_173_760 * 31 / 32 / 140e9 + 0.001
    )
    assert exchange_seconds(1, 161_173_760, planted()) == 0
    assert "NVLink" in describe_exchange(8)
    assert "adapters" in describe_exchange(9)


@pytest.mark.parametrize(
    ("name", "row", "forward", "training"),
    [
        ("resnet50", "resnet50", 1, 1),
        ("moco_v2_resnet50", "resnet50", 1, 1),
        ("simclr_resnet50x1", "resnet50", 1, 1),
        ("resnet18", "resnet18", 1.59, 1.27),
        ("simclr_resnet50x4", "resnetv2_152x4_bit", 2.27, 2.27),
        ("swav_resnet50w2", "resnetv2_152x2_bit", 1.64, 1.64),
        ("mobilenet_v2", "mobilenetv2_100", 0.17, 0.14),
        ("timm/efficientnet_b0", "efficientnet_b0", 0.19, 0.14),
        ("demo", "efficientnet_lite0", 0.22, 0.17),
        ("timm/vit_small_patch16_224", "vit_small_patch16_224", 1.70, 0.97),
        ("dino_vitb16", "vit_base_patch16_224", 2.39, 1.38),
        ("torchvision/vit_l_16", "vit_large_patch14_224", 2.62, 1.38),
        ("dinov2_vitg14", "vit_giant_patch14_224", 2.92, 2.92),
    ],
)
def test_a_network_belongs_to_a_family(name: str, row: str, forward: float, training: float) -> None:
    family = family_of(name)
    assert family is not None
    assert family.row == row
    assert relative_speed(name, training=False) == pytest.approx(forward, abs=0.005)
    assert relative_speed(name, training=True) == pytest.approx(training, abs=0.005)


@pytest.mark.parametrize(
    "name", ["alexnet", "pixels", "timm/vit_so400m_patch14_siglip_224", "timm/resnet500"]
)
def test_an_unknown_network_is_as_fast_as_a_resnet50(name: str) -> None:
    assert family_of(name) is None
    assert relative_speed(name, training=True) == 1
    assert len({family.row for family in FAMILIES}) == len(FAMILIES)
