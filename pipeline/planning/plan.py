"""What both stages will take: arithmetic on sizes, on what the networks cost, and on rates."""

import math
from dataclasses import dataclass

from cache.footprint import Footprint, split_footprint, store_footprint
from cache.layout import SplitShape
from pipeline.embedding.cache_teacher import teacher_identity
from pipeline.embedding.extract import BATCHES_AHEAD as TEACHER_BATCHES_AHEAD
from pipeline.models.backbone import Backbone
from pipeline.planning.inputs import Images, busiest, shapes
from pipeline.planning.network_cost import Costs, parameter_bytes, teacher_shape
from pipeline.planning.rates import Rates
from pipeline.settings.commands import PlanConfig

# What a process takes with its libraries, log and loader, in bytes, as measured without CUDA's; and what the largest
# moment of loading weights, and of writing a checkpoint, takes besides, in multiples of the network's parameters.
STAGE_ONE_PROCESS, LOADING = 990_000_000, 1.5
STAGE_TWO_PROCESS, SAVING = 1_130_000_000, 4.9
LOADER_SLOTS = 4  # batches that FFCV has buffers for
CHUNK_COPIES = 8  # of a chunk's embeddings, from float32 features to the bytes of its file
ROW_BYTES = 30  # of a rank's tables, orders and permutations, a training image; by tests/benchmarks, growth


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: seconds; images/s; what bounds it; processes, and host and device bytes of each."""

    seconds: float
    rate: float
    bound: str
    processes: int
    host_bytes: int
    device_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What it will take. live_seconds: of a student with the teacher in its loop. reads: bytes/s that stage two reads.

    break_even: students after which the cache has paid.
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
    reads: float
    live_seconds: float
    break_even: float
    epochs: int


def cache_footprint(images: Images, teacher: Backbone, config: PlanConfig) -> Footprint:
    """The teacher's store of these images, to the byte but for the name of a weights file."""
    identity = teacher_identity(
        teacher, precision=config.teacher_amp_dtype, batch_size=config.teacher_batch_size
    )
    total = store_footprint(identity, {"name": config.teacher})
    for name, rows in images.rows.items():
        total += split_footprint(SplitShape(rows=rows, views=1, dim=teacher.dim), images.identities[name])
    return total


def make_plan(
    config: PlanConfig, images: Images, teacher: Backbone, costs: Costs, rates: Rates, processes: int
) -> Plan:
    """Put it together. processes: of stage one; stage two has one a GPU, or one."""
    # a worker takes a whole chunk at a time, so the last ones are waited for
    chunks = [shape.rows_of(key) for shape in shapes(images, teacher.dim) for key in shape.chunk_keys]
    waited = busiest(list(map(len, chunks)), processes) * processes
    preparing, working = waited / rates.decode, waited / rates.teacher
    first = rates.together(working, preparing)
    loaded = rates.together(rates.step, rates.loading)
    steps = config.epochs * (images.train // config.batch_size)
    second = steps * loaded
    live = second + steps * config.batch_size / rates.teacher
    shape = SplitShape(rows=images.train, views=1, dim=teacher.dim)
    rate = config.batch_size / loaded
    return Plan(
        images=images.all,
        devices=f"{config.gpus} GPUs" if config.gpus else "this machine's processor",
        rates=rates.source,
        dataset=images.footprint,
        cache=cache_footprint(images, teacher, config),
        chunks=len(chunks),
        chunk_rows=shape.chunk_rows,
        stage_one=Stage(
            seconds=first,
            rate=images.all / first,
            bound="decoding" if preparing > working else "the teacher",
            processes=processes,
            **stage_one_memory(config, teacher, costs, shape),
        ),
        stage_two=Stage(
            seconds=second,
            rate=rate,
            bound="loading" if rates.loading > rates.step else "the student",
            processes=max(1, config.gpus),
            **stage_two_memory(config, images, costs, teacher.dim),
        ),
        reads=rate * (images.picture + (2 if config.objective == "1q" else 1) * 2 * teacher.dim),
        live_seconds=live,
        break_even=first / (live - second),
        epochs=config.epochs,
    )


def stage_one_memory(
    config: PlanConfig, teacher: Backbone, costs: Costs, shape: SplitShape
) -> dict[str, int]:
    """Host and device bytes of a worker, at the largest of loading, a batch with those ahead, and writing a chunk."""
    batch = 4 * math.prod(teacher_shape(teacher, config.teacher_batch_size))
    chunk = 2 * min(shape.rows, shape.chunk_rows) * teacher.dim
    ahead = (TEACHER_BATCHES_AHEAD + 1) * batch
    network = 0 if config.gpus else costs.teacher.bytes
    moments = (
        LOADING * parameter_bytes(teacher.module),
        network + ahead + 2 * chunk,
        CHUNK_COPIES * chunk,
    )
    host = STAGE_ONE_PROCESS + int(max(moments))
    return {"host_bytes": host, "device_bytes": costs.teacher.bytes if config.gpus else 0}


def stage_two_memory(config: PlanConfig, images: Images, costs: Costs, teacher_dim: int) -> dict[str, int]:
    """Host and device bytes of a rank: loader and tables, and the larger of a step and of saving it."""
    pixels = 3 * config.image_size**2 * costs.share
    device = costs.step.bytes + costs.key.bytes + costs.loss.bytes + 2 * 4 * pixels
    loader = LOADER_SLOTS * (pixels + costs.share * (images.pixels + 2 * teacher_dim))
    moment = max(int(SAVING * costs.parameters), 0 if config.gpus else device)
    host = STAGE_TWO_PROCESS + loader + images.train * ROW_BYTES + moment
    return {"host_bytes": host, "device_bytes": device if config.gpus else 0}
