"""The plan of both stages: time, memory and storage, from sizes, network costs and rates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cache.footprint import Footprint, split_footprint, store_footprint
from cache.layout import SplitShape
from pipeline.embedding.cache_teacher import teacher_identity
from pipeline.embedding.extract import BATCHES_AHEAD as TEACHER_BATCHES_AHEAD
from pipeline.models.backbone import Backbone
from pipeline.objectives.builders import anchor_count
from pipeline.planning.given_rates import Rates
from pipeline.planning.inputs import Images, rows_of_busiest_worker, store_shapes
from pipeline.planning.network_cost import NetworkCosts, parameter_bytes, teacher_shape
from pipeline.settings.plan import PlanConfig

# Measured: bytes of a process with its libraries (CUDA's excluded), log and loader; and the peak of loading weights and
# of writing a checkpoint, in multiples of the parameters' bytes.
STAGE_ONE_PROCESS, LOADING = 990_000_000, 1.5
STAGE_TWO_PROCESS, SAVING = 1_130_000_000, 4.9
LOADER_SLOTS = 4  # batches that FFCV has buffers for
CHECK_RATE = 1.33e9  # bytes/s of verifying a cache's checksums, measured by tests/benchmarks, cold_start
CHUNK_COPIES = 8  # copies of a chunk's embeddings, from float32 features to the bytes of its file
ROW_BYTES = (
    30  # per training image, for a rank's tables and permutations; measured by tests/benchmarks, growth
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: seconds, images/s, its bottleneck, processes, and host and device bytes per process."""

    seconds: float
    rate: float
    bound: str
    processes: int
    host_bytes: int
    device_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of both stages.

    check_seconds: a machine's first pass over the cache, which verifies its checksums. step: seconds of each part of a
    training step on the device, and `launching`, of starting its operations meanwhile. reads: bytes/s that stage two
    reads. live_seconds: training time of a student with a live teacher instead of the cache. break_even: number of
    students after which the cache has saved as much time as it cost. assumptions: what was not measured, with sources.
    """

    images: int
    devices: str
    rates: str
    dataset: Footprint
    cache: Footprint
    chunks: int
    chunk_rows: int
    stage_one: Stage
    stage_two: Stage
    check_seconds: float
    step: Mapping[str, float]
    launching: float
    reads: float
    live_seconds: float
    break_even: float
    epochs: int
    assumptions: tuple[str, ...]


def cache_footprint(images: Images, teacher: Backbone, config: PlanConfig) -> Footprint:
    """Return the exact size of the teacher's store of these images, except for the name of a weights file."""
    identity = teacher_identity(
        teacher, precision=config.teacher_amp_dtype, batch_size=config.teacher_batch_size
    )
    total = store_footprint(identity, {"name": config.teacher})
    for name, rows in images.rows.items():
        total += split_footprint(SplitShape(rows=rows, views=1, dim=teacher.dim), images.identities[name])
    return total


def make_plan(
    config: PlanConfig, images: Images, teacher: Backbone, costs: NetworkCosts, rates: Rates, processes: int
) -> Plan:
    """Compute the plan. processes: of stage one; stage two has one per GPU, or one."""
    # workers compute whole chunks, so the stage takes as long as the busiest worker
    chunks = [shape.rows_of(key) for shape in store_shapes(images, teacher.dim) for key in shape.chunk_keys]
    rows = rows_of_busiest_worker(list(map(len, chunks)), processes) * processes
    decoding, computing = rows / rates.decode, rows / rates.teacher
    stage_one_seconds = rates.combined(computing, decoding)
    step_seconds = rates.combined(rates.step, rates.loading)
    steps = config.epochs * (images.train // config.batch_size)
    stage_two_seconds = steps * step_seconds
    # a live teacher's crops are decoded once more, beside the student's
    saved_seconds = steps * config.batch_size * rates.combined(1 / rates.teacher, 1 / rates.decode)
    shape = SplitShape(rows=images.train, views=1, dim=teacher.dim)
    rate = config.batch_size / step_seconds
    cache = cache_footprint(images, teacher, config)
    check_seconds = cache.bytes / CHECK_RATE
    return Plan(
        images=images.total,
        devices=f"{config.gpus} GPUs" if config.gpus else "this machine's processor",
        rates=rates.source,
        dataset=images.footprint,
        cache=cache,
        chunks=len(chunks),
        chunk_rows=shape.chunk_rows,
        stage_one=Stage(
            seconds=stage_one_seconds,
            rate=images.total / stage_one_seconds,
            bound="decoding" if decoding > computing else "the teacher",
            processes=processes,
            **stage_one_memory(config, teacher, costs, shape),
        ),
        stage_two=Stage(
            seconds=stage_two_seconds,
            rate=rate,
            bound="loading" if rates.loading > rates.step else rates.step_bound,
            processes=config.gpus or 1,
            **stage_two_memory(config, images, costs, teacher.dim),
        ),
        check_seconds=check_seconds,
        step=rates.parts,
        launching=rates.launching,
        reads=rate * (images.stored_bytes + rows_per_image(config, images) * 2 * teacher.dim),
        live_seconds=stage_two_seconds + saved_seconds,
        break_even=(stage_one_seconds + check_seconds) / saved_seconds,
        epochs=config.epochs,
        assumptions=rates.assumptions,
    )


def rows_per_image(config: PlanConfig, images: Images) -> int:
    """Return the rows that all ranks together read from the cache for an image of a step.

    They are its own, and in 1q the anchor that enters for it, unless all images are anchors already.
    """
    enters = config.objective == "1q" and anchor_count(config.anchors, images.train) < images.train
    return 2 if enters else 1


def stage_one_memory(
    config: PlanConfig, teacher: Backbone, costs: NetworkCosts, shape: SplitShape
) -> dict[str, int]:
    """Return host and device bytes of a worker: the peak of loading weights, embedding and writing a chunk."""
    batch = 4 * math.prod(teacher_shape(teacher, config.teacher_batch_size))
    chunk = 2 * min(shape.rows, shape.chunk_rows) * teacher.dim
    ahead = (TEACHER_BATCHES_AHEAD + 1) * batch
    network = 0 if config.gpus else costs.teacher.bytes
    loading = LOADING * parameter_bytes(teacher.module)
    # one chunk is computed while the one before it is written
    peak = max(loading, network + ahead + 2 * chunk + CHUNK_COPIES * chunk)
    host = STAGE_ONE_PROCESS + int(peak)
    return {"host_bytes": host, "device_bytes": costs.teacher.bytes if config.gpus else 0}


def stage_two_memory(
    config: PlanConfig, images: Images, costs: NetworkCosts, teacher_dim: int
) -> dict[str, int]:
    """Return host and device bytes of a rank: loader and tables, and the peak of a step and of saving."""
    pixels = 3 * config.image_size**2 * costs.share
    device = costs.step.bytes + costs.key.bytes + costs.loss.bytes + 2 * 4 * pixels
    loader = LOADER_SLOTS * (pixels + costs.share * (images.decoded_bytes + 2 * teacher_dim))
    peak = max(int(SAVING * costs.parameters), 0 if config.gpus else device)
    host = STAGE_TWO_PROCESS + loader + images.train * ROW_BYTES + peak
    return {"host_bytes": host, "device_bytes": device if config.gpus else 0}
