"""Plans: exact sizes, times from rates by hand, and memory that grows by what is added."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.embedding.cache_teacher import embed
from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.models.students import build_student
from pipeline.planning.given_rates import RESNET50_STEP_FLOPS
from pipeline.planning.inputs import packed_images, rows_of_busiest_worker
from pipeline.planning.network_cost import forward_cost, planned_teacher, step_cost
from pipeline.planning.plan import STAGE_TWO_PROCESS, cache_footprint
from pipeline.planning.table import compute_plan
from pipeline.settings.plan import PlanConfig
from pipeline.teachers.backbone_spec import BackboneSpec


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)


def given(**settings: object) -> PlanConfig:
    """1,000 + 200 images, a teacher of raw pixels and a ResNet-18, on two GPUs of given rates."""
    defaults: dict[str, object] = {
        "images": 1000,
        "val_images": 200,
        "picture_bytes": 3000,
        "teacher": "pixels",
        "image_size": 32,
        "epochs": 10,
        "batch_size": 100,
        "gpus": 2,
        "teacher_rate": 100.0,
        "student_rate": 50.0,
    }
    return PlanConfig(**{**defaults, **settings})  # type: ignore[arg-type]


def test_a_planned_store_is_as_large_as_a_written_one(packed: Path, tmp_path: Path, scheduler: str) -> None:
    out = tmp_path / "pixels.zarr"
    embed(
        BackboneSpec(kind="teacher", name="pixels"),
        open_dataset(packed),
        out,
        device="cpu",
        scheduler=scheduler,
    )
    files = [file for file in out.rglob("*") if file.is_file()]
    config = PlanConfig(dataset=packed, teacher="pixels")
    footprint = cache_footprint(packed_images(packed), planned_teacher(config), config)
    assert (footprint.files, footprint.bytes) == (len(files), sum(file.stat().st_size for file in files))


def test_times_follow_from_rates_by_hand() -> None:
    """1,200 images at 2 x 100/s; but a chunk, of 2,048 rows at 3,072-d, is one worker's: 1,000 images at 100/s.

    A step of 50 images a GPU takes a second, besides its loss and the exchange; 10 epochs have 100 steps. A live
    teacher adds half a second to each.
    """
    plan = compute_plan(given())
    assert plan.chunks == 2
    assert plan.stage_one.seconds == pytest.approx(10)
    step = step_cost(
        nn.Sequential(build_student("resnet18", image_size=32, seed=0), nn.Linear(512, 3072)),
        (50, 3, 32, 32),
        bf16=True,
        optimizer=sgd,
    )
    # 50 images/s of this ResNet-18, which does 1.27 x a ResNet-50's operations a second, by timm's table
    of_a100 = 50 * step.flops / 50 / (3481.78 * 1.82 / (1218.01 * 4.11)) / RESNET50_STEP_FLOPS / 2470
    memory, products = 0.7 * 1.555e12 * of_a100, 0.7 * 156e12 * of_a100
    reading, multiplying = (16 * 500 * 3072 + 16 * 100 * 500) / memory, 8 * 100 * 500 * 3072 / products
    loss = max(reading, multiplying) + (12 * 500 * 3072 + 24 * 100 * 500) / memory
    parameters = 4 * (11_176_512 + 512 * 3072 + 3072)
    exchange = (parameters + 4 * 100 * 8 * 3072 / 2) / (0.7 * 300e9)
    assert plan.step == pytest.approx({"student": 1, "loss": loss, "exchange": exchange})
    assert plan.stage_two.seconds == pytest.approx(100 * (1 + loss + exchange))
    assert plan.live_seconds == pytest.approx(100 * (1 + loss + exchange) + 50)
    assert plan.check_seconds == pytest.approx(plan.cache.bytes / 1.33e9)
    assert plan.break_even == pytest.approx((10 + plan.check_seconds) / 50)
    assert (plan.stage_one.bound, plan.stage_two.bound) == ("the teacher", "the student")


def test_a_small_step_on_a_gpu_waits_for_its_operations_to_start() -> None:
    plan = compute_plan(given(student_rate=1e9))
    assert plan.stage_two.bound == "starting operations"
    assert plan.stage_two.seconds == pytest.approx(100 * plan.launching)
    assert compute_plan(given(student_rate=1e9, gpus=0)).launching == 0


def test_an_anchor_is_read_once_by_all_ranks_unless_all_images_are_anchors() -> None:
    """1,000 images of 3,000 bytes and rows of 6,144: its own row, and that of the anchor that enters for it."""
    for settings, rows in (({"anchors": "999"}, 2), ({}, 1), ({"objective": "2q", "anchors": "999"}, 1)):
        plan = compute_plan(given(**settings))
        assert plan.reads == pytest.approx(plan.stage_two.rate * (3000 + rows * 6144))


def test_what_is_slower_bounds_a_gpu_and_a_processor_does_both() -> None:
    slow = compute_plan(given(decode_rate=10.0, cores=4, load_rate=10.0, workers=1))
    assert slow.stage_one.seconds == pytest.approx(2000 / 40)  # two workers, the first with 1,000 images
    assert slow.stage_one.bound == "decoding"
    assert slow.stage_two.seconds == pytest.approx(100 * 50 / 10)
    assert slow.stage_two.bound == "loading"
    shared = compute_plan(given(cores=12, load_rate=1.0))
    assert shared.stage_two.seconds == pytest.approx(100 * 50 / (12 // given().gpus))
    plan = compute_plan(given(gpus=0, decode_rate=10.0, cores=4, load_rate=10.0))
    alone = compute_plan(given(gpus=0))
    shares = plan.stage_one.processes
    rows = rows_of_busiest_worker([1000, 200], shares) * shares
    assert plan.stage_one.seconds == pytest.approx(rows / 100 + rows / 40)
    assert plan.stage_two.seconds == pytest.approx(alone.stage_two.seconds + 1000 / (4 * 10) * 10)


def test_one_rate_gives_both_by_their_operations() -> None:
    plan = compute_plan(given(teacher="demo", teacher_rate=0.0, student_rate=0.0, rate=100.0, image_size=32))
    flops = forward_cost(planned_teacher(given(teacher="demo")).module, (1, 3, 128, 128), bf16=False).flops
    # images of one chunk, on one device; the demo's EfficientNet-Lite0 does 0.22 x a ResNet-50's operations a second
    speed = 100 * RESNET50_STEP_FLOPS * (11509.61 * 0.4) / (5088.39 * 4.11)
    assert plan.stage_one.seconds == pytest.approx(1000 * flops / speed, rel=1e-6)
    # tables of GPUs are of no use for a processor
    on_host = compute_plan(given(teacher="demo", teacher_rate=0.0, student_rate=0.0, rate=100.0, gpus=0))
    rows = rows_of_busiest_worker([1000, 200], on_host.stage_one.processes) * on_host.stage_one.processes
    assert on_host.stage_one.seconds == pytest.approx(rows * flops / (100 * RESNET50_STEP_FLOPS), rel=1e-6)
    resnet = build_student("resnet50", image_size=224, seed=0)
    counted = step_cost(resnet, (1, 3, 224, 224), bf16=True, optimizer=sgd).flops
    assert counted == pytest.approx(RESNET50_STEP_FLOPS, rel=0.01)


def test_memory_grows_by_what_is_added() -> None:
    small, large = (compute_plan(given(anchors=str(count))) for count in (100, 1000))
    # each of two GPUs holds half; its block is as long as that here, and has logits for the whole batch
    block = 4 * (450 * 3072 + 2 * 100 * 450)
    added = 450 * (2 * 3072 + 8) + block
    assert large.stage_two.device_bytes - small.stage_two.device_bytes == added
    assert compute_plan(given(images=2000)).stage_two.host_bytes > small.stage_two.host_bytes
    on_host, on_gpu = (compute_plan(given(gpus=gpus, image_size=96)).stage_two for gpus in (0, 1))
    assert on_host.device_bytes == 0
    # what a GPU would hold is the process's own
    assert on_host.host_bytes - STAGE_TWO_PROCESS > on_gpu.device_bytes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": 0}, "either a packed DATASET, or --images N"),
        ({"dataset": Path("somewhere")}, "either a packed DATASET, or --images N"),
        ({"picture_bytes": 0}, "--images needs --picture-bytes"),
        ({"student_rate": 0.0}, "both --teacher-rate and --student-rate"),
        ({"teacher_rate": 0.0, "student_rate": 0.0, "load_rate": 1.0}, "go with --rate"),
        ({"images": 99}, "99 training images do not fill one batch of 100: give a smaller --batch-size"),
        ({"batch_size": 101}, "cannot be shared by 2 GPUs"),
        ({"anchors": "1001"}, "only 1,000 rows"),
        ({"teacher": "nobody"}, "unknown teacher 'nobody'"),
        ({"teacher_rate": 1e300}, "--teacher-rate: expected a number from 0.001 to"),
    ],
)
def test_what_cannot_be_planned_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(WrongUse, match=words):
        compute_plan(given(**settings))
