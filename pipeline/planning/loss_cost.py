"""Operations, memory and traffic of the streamed loss, from its shapes."""

from dataclasses import dataclass

from pipeline.objectives.builders import anchor_count
from pipeline.objectives.streamed import BLOCK, CONVERTED_BLOCK
from pipeline.settings.plan import PlanConfig

LAUNCHES_PER_BLOCK = 12  # of a pass over the anchors: convert, two products, mask, exponential, sums


@dataclass(frozen=True, kw_only=True)
class LossCost:
    """Cost of a step's loss on one device, which holds some of the anchors and scores the whole batch against them.

    flops: operations of its matrix products. bytes: of queues, tables and buffers. launches: operations to start.
    operands: bytes that the products read and write. traffic: bytes read and written outside of products, to convert
    anchors to float32 and to turn logits into weights. exchanged: bytes that each device sends to others.
    """

    flops: int
    bytes: int
    launches: int
    operands: int
    traffic: int
    exchanged: int


def loss_cost(config: PlanConfig, rows: int, student_dim: int, teacher_dim: int) -> LossCost:
    """Return the cost of a step's loss on one device. rows: of the split.

    Student and teacher each make a pass over the anchors. It converts float16 anchors to float32, block by block, and
    has two products with each block: the logits, and the weighted sum. At most two blocks of logits exist at once.
    """
    batch, devices = config.batch_size, config.gpus or 1
    total = anchor_count(config.anchors, rows)
    held = -(-total // devices)
    block = min(BLOCK if config.gpus else CONVERTED_BLOCK, held)
    tables = 4 * (rows + 1)
    if config.objective == "1q":
        # both passes go over the teacher's anchors
        student_dim, multiplied, converted, per_logit = teacher_dim, 4 * teacher_dim, 2 * teacher_dim, 24
        queues = held * (2 * teacher_dim + 8)
        exchanged = 8 * teacher_dim
    else:
        # in both passes the student's keys are summed; they are float32 already
        multiplied, converted, per_logit = teacher_dim + 3 * student_dim, teacher_dim, 48
        queues = held * (2 * teacher_dim + 4 * student_dim) + 8 * total
        exchanged = 8 * student_dim + 2 * teacher_dim
    buffers = 4 * (block * teacher_dim + 2 * batch * block + 2 * batch * student_dim)
    return LossCost(
        flops=2 * batch * held * multiplied,
        bytes=queues + tables + buffers,
        launches=2 * LAUNCHES_PER_BLOCK * -(-held // block),
        operands=4 * held * multiplied + 16 * batch * held,
        traffic=6 * held * converted + per_logit * batch * held,
        # rows of the batch that are gathered count once; sums of a pass and gradients, which are reduced, twice
        exchanged=4 * batch * exchanged * (devices - 1) // devices,
    )
