"""Plans: bytes are those that are written, times follow from rates by hand, and memory from what is live."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import Client
from torch import nn

import cli
from cache.layout import SplitShape
from pipeline.embedding.cache_teacher import embed
from pipeline.errors import WrongUse
from pipeline.images.beton_format import beton_bytes, open_beton
from pipeline.images.beton_writer import SMALLEST_PAGE
from pipeline.images.dataset import open_dataset
from pipeline.models.students import build_student
from pipeline.planning import benchmark as measuring
from pipeline.planning.inputs import busiest, packed_images, planned_images
from pipeline.planning.network_cost import LiveTensors, forward_cost, open_teacher, parameter_bytes, step_cost
from pipeline.planning.plan import STAGE_TWO_PROCESS, Plan, cache_footprint
from pipeline.planning.rates import RESNET50_STEP_FLOPS
from pipeline.planning.table import human_time, markdown, planned
from pipeline.settings.commands import PlanConfig
from pipeline.settings.toml_file import from_toml
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
    planned = cache_footprint(packed_images(packed), open_teacher(config), config)
    assert (planned.files, planned.bytes) == (len(files), sum(file.stat().st_size for file in files))


def test_a_packed_dataset_is_measured_and_an_absent_one_is_close(packed: Path) -> None:
    """`packed` was written by one process, so FFCV's pages are filled as they are counted: the .beton is exact."""
    files = [file for file in packed.iterdir() if file.is_file()]
    there = planned_images(PlanConfig(dataset=packed))
    assert there.footprint.bytes == sum(file.stat().st_size for file in files)
    assert there.footprint.files == len(files)
    assert (there.train, there.all, there.pixels) == (160, 200, 0)
    for split in open_dataset(packed).splits.values():
        pictures = open_beton(split.beton, split.labels).sizes
        assert beton_bytes(split.rows, float(pictures.mean()), SMALLEST_PAGE) == split.beton.stat().st_size
    absent = planned_images(PlanConfig(images=160, val_images=40, picture_bytes=3072))
    assert absent.footprint.bytes == pytest.approx(there.footprint.bytes, rel=0.01)


def test_times_follow_from_rates_by_hand() -> None:
    """1,200 images at 2 x 100/s; but a chunk, of 2,048 rows at 3,072-d, is one worker's: 1,000 images at 100/s.

    A step of 50 images a GPU takes a second and its loss besides; 10 epochs have 100 steps. A live teacher adds half a
    second to each.
    """
    plan = planned(given())
    assert plan.chunks == 2
    assert plan.stage_one.seconds == pytest.approx(10)
    step = step_cost(
        nn.Sequential(build_student("resnet18", image_size=32, seed=0), nn.Linear(512, 3072)),
        (50, 3, 32, 32),
        bf16=True,
        optimizer=sgd,
    )
    loss = 8 * 50 * 1000 * 3072 / step.flops
    assert plan.stage_two.seconds == pytest.approx(100 * (1 + loss))
    assert plan.live_seconds == pytest.approx(100 * (1 + loss) + 50)
    assert plan.break_even == pytest.approx(10 / 50)
    assert (plan.stage_one.bound, plan.stage_two.bound) == ("the teacher", "the student")


def test_what_is_slower_bounds_a_gpu_and_a_processor_does_both() -> None:
    slow = planned(given(decode_rate=10.0, cores=4, load_rate=10.0))
    assert slow.stage_one.seconds == pytest.approx(2000 / 40)  # two workers, the first with 1,000 images
    assert slow.stage_one.bound == "decoding"
    assert slow.stage_two.seconds == pytest.approx(100 * 50 / 10)
    assert slow.stage_two.bound == "loading"
    plan = planned(given(gpus=0, decode_rate=10.0, cores=4, load_rate=10.0))
    alone = planned(given(gpus=0))
    shares = plan.stage_one.processes
    waited = busiest([1000, 200], shares) * shares
    assert plan.stage_one.seconds == pytest.approx(waited / 100 + waited / 40)
    assert plan.stage_two.seconds == pytest.approx(alone.stage_two.seconds + 1000 / (4 * 10) * 10)


def test_one_rate_gives_both_by_their_operations() -> None:
    plan = planned(given(teacher="demo", teacher_rate=0.0, student_rate=0.0, rate=100.0, image_size=32))
    flops = forward_cost(open_teacher(given(teacher="demo")).module, (1, 3, 128, 128), bf16=False).flops
    # images of one chunk, on one device
    assert plan.stage_one.seconds == pytest.approx(1000 * flops / (100 * RESNET50_STEP_FLOPS), rel=1e-6)
    resnet = build_student("resnet50", image_size=224, seed=0)
    counted = step_cost(resnet, (1, 3, 224, 224), bf16=True, optimizer=sgd).flops
    assert counted == pytest.approx(RESNET50_STEP_FLOPS, rel=0.01)


def test_memory_grows_by_what_is_added() -> None:
    small, large = (planned(given(anchors=str(count))) for count in (100, 1000))
    # of the loss, whose block is as long as there are anchors here
    block = 4 * (900 * 3072 + 2 * 50 * 900)
    added = 900 * (2 * 3072 + 8) + block
    assert large.stage_two.device_bytes - small.stage_two.device_bytes == added
    assert planned(given(images=2000)).stage_two.host_bytes > small.stage_two.host_bytes
    on_host, on_gpu = (planned(given(gpus=gpus, image_size=96)).stage_two for gpus in (0, 1))
    assert on_host.device_bytes == 0
    # what a GPU would hold is the process's own
    assert on_host.host_bytes - STAGE_TWO_PROCESS > on_gpu.device_bytes


def test_workers_take_whole_chunks() -> None:
    assert busiest([4, 4, 4], 2) == 8
    assert busiest([4, 1, 1, 1], 2) == 4
    assert busiest([3] * 10, 1) == 30
    assert SplitShape(rows=1, views=1, dim=3072).chunk_rows == 2048


def test_operations_and_memory_of_a_linear_layer_by_hand() -> None:
    layer = nn.Linear(30, 20, bias=False)
    forward = forward_cost(nn.Sequential(nn.Flatten(), layer), (8, 3, 1, 10), bf16=False)
    assert forward.flops == 2 * 8 * 30 * 20
    assert forward.bytes == 4 * (30 * 20 + 8 * 30 + 8 * 20)
    step = step_cost(nn.Sequential(nn.Flatten(), layer), (8, 3, 1, 10), bf16=False, optimizer=sgd)
    assert step.flops == 2 * forward.flops  # nobody asks for the gradient of the images
    assert parameter_bytes(layer) == 4 * 30 * 20


@pytest.mark.parametrize("bf16", [False, True])
def test_memory_without_running_is_that_of_running(bf16: bool) -> None:
    """The same count over real tensors: what PyTorch allocates inside an operation is seen by neither."""
    shape = (4, 3, 32, 32)
    planned = step_cost(build_student("resnet18", image_size=32, seed=0), shape, bf16=bf16, optimizer=sgd)
    with LiveTensors() as live:
        network = build_student("resnet18", image_size=32, seed=0)
        for parameter in network.parameters():  # were made in a mode of their own
            live.count(parameter)
        optimizer = sgd(network)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                embedding = network(torch.zeros(shape))
            optimizer.zero_grad()
            embedding.float().sum().backward()
            optimizer.step()
    # 5 %: buffers of BatchNorm and workspaces
    assert planned.bytes == pytest.approx(live.peak, rel=0.05)


def test_a_packed_dataset_is_planned_with_measured_rates(
    packed: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the tests' own cluster, and for an instant: that it measures, not how well (tests/benchmarks does)."""
    monkeypatch.setattr(measuring, "SECONDS", 0.02)
    # one worker, which that cluster has
    monkeypatch.setattr(measuring, "machine_share", lambda *wanted, **settings: (1, 1))
    monkeypatch.setattr(measuring, "open_client", lambda **settings: Client(scheduler))
    plan: Plan = planned(
        PlanConfig(dataset=packed, teacher="pixels", image_size=16, batch_size=32, epochs=2, anchors="64")
    )
    assert plan.rates.startswith("measured here")
    numbers = [plan.stage_one.seconds, plan.stage_two.seconds, plan.live_seconds, plan.break_even, plan.reads]
    assert np.isfinite(numbers).all()
    assert min(numbers) > 0
    assert plan.live_seconds > plan.stage_two.seconds


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": 0}, "either a DATASET that was packed, or --images N"),
        ({"dataset": Path("somewhere")}, "either a DATASET that was packed, or --images N"),
        ({"picture_bytes": 0}, "--images needs --picture-bytes"),
        ({"student_rate": 0.0}, "both --teacher-rate and --student-rate"),
        ({"teacher_rate": 0.0, "student_rate": 0.0, "load_rate": 1.0}, "go with --rate"),
        ({"batch_size": 101}, "cannot be shared by 2 GPUs"),
        ({"anchors": "1001"}, "only 1,000 rows"),
        ({"teacher": "nobody"}, "no teacher is called 'nobody'"),
    ],
)
def test_what_cannot_be_planned_is_said(settings: dict[str, object], words: str) -> None:
    with pytest.raises(WrongUse, match=words):
        planned(given(**settings))


def test_the_command_prints_writes_and_gives_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "plan",
        "--images",
        "1000",
        "--picture-bytes",
        "3000",
        "--teacher",
        "pixels",
        "--image-size",
        "32",
    ]
    command += ["--rate", "1000", "--gpus", "1", "--batch-size", "100"]
    assert cli.run_cli(command) == 0
    shown = capsys.readouterr().out
    assert "it has paid in epoch" in shown
    assert cli.run_cli([*command, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["images"] == 1000
    page = tmp_path / "page.md"
    page.write_text("<!-- results:plan -->\n<!-- /results:plan -->\n")
    assert cli.run_cli([*command, "--out", str(page)]) == 0
    assert "--rate 1000" in page.read_text()
    assert "| time |" in page.read_text()


@pytest.mark.parametrize("path", sorted(Path("recipes/plans").iterdir()), ids=lambda path: path.stem)
def test_the_recipes_are_planned_and_stand_in_the_documents(path: Path) -> None:
    config = PlanConfig(**from_toml(PlanConfig, path))
    page = Path("docs/scaling.md").read_text()
    written = page.partition(f"<!-- results:plan-{path.stem} -->\n")[2].partition("\n<!-- /results")[0]
    assert written == markdown(config, planned(config)).strip(), "run `make readme`"


def test_time_is_told_in_the_unit_that_fits() -> None:
    assert [human_time(seconds) for seconds in (59.0, 90.0, 5400.0, 86400.0 * 2.5)] == [
        "59 s",
        "1.5 minutes",
        "1.5 hours",
        "2.5 days",
    ]
