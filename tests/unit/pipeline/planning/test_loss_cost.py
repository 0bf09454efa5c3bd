"""Cost of the loss by hand: operations, bytes and what ranks exchange."""

from pipeline.planning.loss_cost import loss_cost
from pipeline.settings.plan import PlanConfig


def test_1q_on_one_device_and_on_eight() -> None:
    """64 images, 4,000 anchors of 100-d, which the student shares; a row is 200 bytes as cached and 400 in float32.

    Each of two passes multiplies the anchors twice. It converts them, reading 2 and writing 4 bytes a value, and reads
    or writes a logit of 4 bytes three times outside of products, and twice in them.
    """
    config = PlanConfig(images=5000, batch_size=64, anchors="4000")
    cost = loss_cost(config, 5000, 512, 100)
    assert cost.flops == 4 * 2 * 64 * 4000 * 100
    assert cost.operands == 4 * 4000 * 400 + 2 * 2 * 64 * 4000 * 4
    assert cost.traffic == 2 * 4000 * (200 + 400) + 2 * 3 * 64 * 4000 * 4
    assert cost.exchanged == 0
    eight = loss_cost(PlanConfig(images=5000, batch_size=64, anchors="4000", gpus=8), 5000, 512, 100)
    assert eight.flops * 8 == cost.flops
    assert eight.traffic * 8 == cost.traffic
    # 7/8 of: the batch's queries and teacher rows, once; the sums of two passes and the gradient, twice
    assert eight.exchanged == 64 * 400 * (2 + 2 * 3) * 7 / 8


def test_2q_multiplies_the_teachers_anchors_once_and_its_own_keys_three_times() -> None:
    """64 images, 4,000 keys of 50-d in float32 and rows of 100-d. The teacher's pass also sums the logits."""
    cost = loss_cost(PlanConfig(images=5000, batch_size=64, anchors="4000", objective="2q"), 5000, 50, 100)
    assert cost.flops == 2 * 64 * 4000 * (100 + 3 * 50)
    assert cost.operands == 4000 * (400 + 3 * 200) + 2 * 2 * 64 * 4000 * 4
    assert cost.traffic == 4000 * (200 + 400) + (2 * 3 + 6) * 64 * 4000 * 4


def test_blocks_are_started_one_after_the_other() -> None:
    few, many = (
        loss_cost(PlanConfig(images=20_000, anchors=str(anchors), gpus=1), 20_000, 512, 100)
        for anchors in (8192, 8193)
    )
    assert many.launches == 2 * few.launches
