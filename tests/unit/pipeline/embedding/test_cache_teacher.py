import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cache.errors import IdentityMismatch, InUse, StoreError
from cache.layout import ChunkKey, Status
from cache.lock import sole_writer
from cache.reader import open_store
from pipeline.embedding import cache_teacher as embedding
from pipeline.embedding import extract as extraction
from pipeline.embedding.array_files import export_embeddings
from pipeline.embedding.cache_teacher import embed
from pipeline.embedding.dask_workers import open_client, share_of_machine, visible_device
from pipeline.embedding.dispatch import RowsBar
from pipeline.embedding.embed_command import embed_any
from pipeline.embedding.extract import Settings, as_rows, extract
from pipeline.embedding.tasks import Chunk
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.decode import UnreadableImage
from pipeline.images.pack import pack
from pipeline.images.sources import open_sources
from pipeline.settings.commands import EmbedConfig, PackConfig
from pipeline.teachers.backbone_spec import BackboneSpec
from pipeline.teachers.registry import load_teacher

UNREADABLE, BLACK = 70, 3
WHITE_ONCE, WHITE_ALWAYS = 20, 150
CHUNK = 64  # rows of 131,072 float16, near 16 MiB


def teacher(function: str) -> BackboneSpec:
    return BackboneSpec(kind="teacher", name=f"tests.support.tiny_teacher:{function}")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 + 5 images of 20 x 18 px in two classes; in train one is unreadable, one black, two are white."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 160), ("val", 5)):
        for row in range(count):
            path = folder / split / "ab"[row * 2 >= count] / f"{row:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (18, 20, 3), dtype=np.uint8)
            gray = {BLACK: 0, WHITE_ONCE: 254, WHITE_ALWAYS: 255}.get(row) if split == "train" else None
            Image.fromarray(pixels if gray is None else np.full_like(pixels, gray)).save(path)
    (folder / "train" / "a" / f"{UNREADABLE:03}.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def dataset(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("dataset") / "d"
    pack(PackConfig(data=images, out=out, workers=1))
    return open_dataset(out)


@pytest.fixture(scope="module")
def whole(dataset: Dataset, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was written without an interruption."""
    out = tmp_path_factory.mktemp("store") / "whole.zarr"
    report = embed(teacher("wide"), dataset, out, workers=1, batch_size=16, scheduler=scheduler)
    assert (report.rows, report.chunks, report.unreadable, report.degenerate) == (165, 4, 1, 0)
    return out


def files(store: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of every file of a store."""
    found = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_the_store_is_what_a_plain_loop_gives(dataset: Dataset, whole: Path) -> None:
    store, backbone = open_store(whole), load_teacher("tests.support.tiny_teacher:wide")
    assert store.splits == ("train", "val")
    for name in store.splits:
        split, source = store.split(name), dataset.splits[name]
        assert split.complete
        for row in (row for row in (0, BLACK, 15, 16, 63, 64, 159) if row < source.rows):
            image = Image.open(source.data / name / source.names[row]).convert("RGB")
            with torch.inference_mode():
                feature = backbone.module(backbone.preprocessing.transform(image)[None])[0].double().numpy()
            norm = np.linalg.norm(feature)
            # float16 has 11 bits, and an embedding's largest element is below 0.01
            np.testing.assert_allclose(split.gather([row])[0], feature / norm, atol=1e-5)
            assert split.norm[0, row] == pytest.approx(norm, rel=1e-6)
        np.testing.assert_array_equal(split.label, source.labels)
        np.testing.assert_array_equal(split.thumb, source.thumbs)
        assert split.dataset == source.identity


def test_every_row_says_what_happened_to_it(whole: Path) -> None:
    split = open_store(whole).split("train")
    expected = np.full(160, Status.OK)
    expected[UNREADABLE] = Status.UNREADABLE
    np.testing.assert_array_equal(split.status[0], expected)
    assert np.isnan(split.gather([UNREADABLE])).all()
    assert np.isnan(split.norm[0, UNREADABLE])
    assert np.isnan(split.crop[0, UNREADABLE]).all()
    # 20 x 18 px become 17 x 16 px, of which the middle 16 are seen: half a pixel off is rounded to even
    np.testing.assert_allclose(split.crop[0, 0], (0, 0, 1, 16 / 17, 0), atol=1e-7)


def test_a_store_tells_by_what_name_its_teacher_was_asked_for(whole: Path, tmp_path: Path) -> None:
    assert open_store(whole).origin == {"name": "tests.support.tiny_teacher:wide"}
    weights = BackboneSpec(kind="teacher", name="moco_v2_resnet50", weights=tmp_path / "moco.pth")
    assert weights.origin() == {"name": "moco_v2_resnet50", "file": "moco.pth"}
    assert BackboneSpec(kind="run", run=tmp_path / "r18").origin() == {"run": "r18"}


def test_the_identity_says_all_that_decides_a_value(whole: Path) -> None:
    backbone = load_teacher("tests.support.tiny_teacher:wide")
    assert open_store(whole).teacher == {
        "architecture": "tests.support.tiny_teacher:wide",
        "weights": backbone.weights_sha256,
        "feature": "output",
        "dim": 131072,
        "preprocessing": {
            "resize": 16,
            "crop": 16,
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
        },
        "dtype": "float16",
        "precision": "fp32",
        "batch_size": 16,
        "views_seed": 0,
        "format": 1,
    }


def test_a_complete_store_is_left_untouched(
    dataset: Dataset, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(whole)
    monkeypatch.setattr(embedding, "open_client", None)
    report = embed(teacher("wide"), dataset, whole, workers=1, batch_size=16, progress=True)
    assert str(report) == "nothing to do, every chunk is there"
    assert capsys.readouterr().err == "train: 0 of 3 chunks to do\nval: 0 of 1 chunks to do\n"
    assert files(whole) == before


def test_another_setting_or_dataset_is_refused_with_the_difference(
    dataset: Dataset, whole: Path, scheduler: str
) -> None:
    before = files(whole)
    with pytest.raises(IdentityMismatch, match="batch_size: expected 32, found 16"):
        embed(teacher("wide"), dataset, whole, batch_size=32, scheduler=scheduler)
    with pytest.raises(IdentityMismatch, match='precision: expected "bf16", found "fp32"'):
        embed(teacher("wide"), dataset, whole, batch_size=16, precision="bf16", scheduler=scheduler)
    other = replace(dataset, splits={"train": dataset.splits["val"]})
    with pytest.raises(IdentityMismatch, match="expected 5, found 160"):
        embed(teacher("wide"), other, whole, batch_size=16, scheduler=scheduler)
    assert files(whole) == before


def test_only_the_named_split_is_computed(
    dataset: Dataset, scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.zarr"
    options = {"workers": 1, "scheduler": scheduler, "progress": True}
    report = embed(teacher("convolutional"), dataset, out, splits=["val"], **options)
    shown = capsys.readouterr().err
    assert shown.startswith("val: 1 of 1 chunks to do\n")
    assert "5/5" in shown
    assert (report.rows, open_store(out).splits) == (5, ("val",))
    with pytest.raises(WrongUse, match="has no split 'vall'; did you mean 'val'"):
        embed(teacher("convolutional"), dataset, out, splits=["vall"], scheduler=scheduler)


def test_a_changed_image_fails_its_chunk_and_no_other(
    images: Path, dataset: Dataset, whole: Path, scheduler: str, tmp_path: Path
) -> None:
    changed = images / "train" / "a" / "000.png"
    original = changed.read_bytes()
    changed.write_bytes(original + b"x")
    try:
        with pytest.raises(
            PipelineError, match=r"3 of 4 chunks.*train chunk 0 \(rows 0 to 63\).*has changed since"
        ):
            embed(
                teacher("wide"), dataset, tmp_path / "s.zarr", workers=1, batch_size=16, scheduler=scheduler
            )
    finally:
        changed.write_bytes(original)
    report = embed(
        teacher("wide"), dataset, tmp_path / "s.zarr", workers=1, batch_size=16, scheduler=scheduler
    )
    assert report.chunks == 1
    contents = [
        {name: data for name, (_, data) in files(store).items()} for store in (tmp_path / "s.zarr", whole)
    ]
    assert contents[0] == contents[1]


def test_a_store_that_cannot_be_written_ends_it_at_once(
    dataset: Dataset, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def full_disk(*arguments: object) -> None:
        tried.append(arguments)
        raise StoreError("no space left on device")

    monkeypatch.setattr(extraction, "write_chunk", full_disk)
    with pytest.raises(PipelineError, match=r"0 of 4 chunks were computed; train chunk 0 .*no space left"):
        embed(teacher("wide"), dataset, tmp_path / "s.zarr", workers=1, batch_size=16, scheduler=scheduler)
    assert len(tried) == 1


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(
    dataset: Dataset, whole: Path, scheduler: str, tmp_path: Path
) -> None:
    out = tmp_path / "s.zarr"
    code = (
        "import sys; from pathlib import Path; from pipeline.images.dataset import open_dataset;"
        "from pipeline.embedding.cache_teacher import BackboneSpec, embed\n"
        "if __name__ == '__main__':\n"
        "    spec = BackboneSpec(kind='teacher', name='tests.support.tiny_teacher:slow')\n"
        "    embed(spec, open_dataset(Path(sys.argv[1])), Path(sys.argv[2]), workers=1, batch_size=16)"
    )
    slow = {**os.environ, "SLOW_TEACHER": "0.5"}
    process = subprocess.Popen([sys.executable, "-c", code, str(dataset.path), str(out)], env=slow)
    wait_for(out / "train" / "embedding" / "c" / "0" / "0" / "0")
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert children
    assert not psutil.wait_procs(children, timeout=10)[1], "a worker went on without its parent"
    before = files(out)
    report = embed(teacher("slow"), dataset, out, workers=1, batch_size=16, scheduler=scheduler)
    after, expected = files(out), files(whole)
    done = [name for name in before if name.startswith("train/embedding/c/")]
    assert 0 < len(done) == 4 - report.chunks
    assert all(after[name] == before[name] for name in done)
    # the stores' own attributes differ in the teacher's name, and so does what the ledgers say the chunks are of
    assert {name: data for name, (_, data) in after.items() if "/" in name and "checksum" not in name} == {
        name: data for name, (_, data) in expected.items() if "/" in name and "checksum" not in name
    }


def test_a_chunk_that_kills_two_workers_is_named_and_the_rest_goes_on(
    dataset: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEADLY_RECORD", str(tmp_path / "record"))
    environment = os.environ.copy()
    named = r"3 of 4 chunks were computed; train chunk 2 \(rows 128 to 159\): it killed 2 workers"
    with pytest.raises(PipelineError, match=named):
        embed(teacher("deadly"), dataset, tmp_path / "s.zarr", workers=1, batch_size=16)
    assert sorted((tmp_path / "record").read_text().split()) == ["always", "always", "once"]
    assert os.environ == environment
    split = open_store(tmp_path / "s.zarr").split("train")
    assert [key.index for key in split.absent] == [WHITE_ALWAYS // CHUNK] == [2]
    rows = np.arange(2 * CHUNK)
    np.testing.assert_array_equal(split.gather(rows), open_store(whole).split("train").gather(rows))


class Subscriptions:
    """As much of a dask client as the progress bar needs."""

    id = "client-1"

    def subscribe_topic(self, topic: str, handler: Callable[[tuple[float, tuple]], None]) -> None:
        assert topic != self.id, "that is where dask itself speaks"
        self.topic, self.handler = topic, handler

    def unsubscribe_topic(self, topic: str) -> None:
        assert topic == self.topic


def test_the_bar_takes_back_the_rows_of_a_chunk_that_begins_again() -> None:
    place = {"dataset": Path("d"), "data": Path("i"), "split": "train", "images": ""}
    chunks = [Chunk(**place, key=ChunkKey(0, n), rows=range(64 * n, 64 * n + 64)) for n in range(2)]
    client, seen = Subscriptions(), []
    with RowsBar(client, chunks, shown=True) as bar:
        for start, done in ((0, 16), (64, 16), (64, 32), (64, 16)):
            client.handler((0.0, ("train", start, done)))
            seen.append(bar.bar.n)
        bar.set(chunks[0], 64)
        assert [*seen, bar.bar.n] == [16, 32, 48, 32, 80]


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


def settings(batch_size: int, precision: str = "fp32") -> Settings:
    return Settings(device="cpu", precision=precision, batch_size=batch_size, threads=1)


def test_batches_begin_at_the_first_row_and_pass_over_the_unreadable(images: Path) -> None:
    source, seen = open_sources(images)["train"], []
    backbone = load_teacher("tests.support.tiny_teacher:with_mapping")
    backbone.module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    done: list[int] = []
    features = extract(backbone, source.read, range(64, 90), settings(10), done.append)
    assert seen == [9, 10, 6]
    assert done == [10, 20, 26]
    alone = extract(backbone, source.read, range(80, 81), settings(10))
    # another batch size may round otherwise
    np.testing.assert_allclose(features.feature[16], alone.feature[0], rtol=1e-5)
    assert (~features.readable).nonzero()[0].tolist() == [UNREADABLE - 64]


def test_a_batch_without_a_readable_image_needs_no_model() -> None:
    def read(row: int) -> bytes:
        raise UnreadableImage("gone")

    rows = as_rows(
        extract(load_teacher("tests.support.tiny_teacher:with_mapping"), read, range(3), settings(2))
    )
    assert rows.status.tolist() == [Status.UNREADABLE] * 3
    assert np.isnan(rows.embedding).all()


def test_bf16_is_near_fp32_and_not_the_same(images: Path) -> None:
    source = open_sources(images)["val"]
    backbone = load_teacher("tests.support.tiny_teacher:with_mapping")
    fp32, bf16 = (
        extract(backbone, source.read, range(5), settings(5, kind)).feature for kind in ("fp32", "bf16")
    )
    assert not np.array_equal(fp32, bf16)
    # bf16 keeps 8 bits
    np.testing.assert_allclose(fp32, bf16, rtol=0.03)


@pytest.mark.parametrize(("workers", "count", "threads"), [(0, 2, 3), (1, 1, 6), (3, 3, 2), (50, 4, 1)])
def test_threads_follow_from_the_whole_dataset(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, workers: int, count: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(embedding, "MOST_CPU_WORKERS", 2)
    assert share_of_machine(workers, "cpu", dataset, dim=131072) == (count, threads)


def test_a_plain_folder_becomes_an_array_and_its_names(images: Path, tmp_path: Path) -> None:
    config = EmbedConfig(data=images, out=tmp_path / "e.npy", teacher="pixels", image_size=8)
    embed_any(config)
    found = np.load(tmp_path / "e.npy")
    names = (tmp_path / "e.names.txt").read_text().splitlines()
    sources = open_sources(images)
    assert names == [f"{split}/{name}" for split in ("train", "val") for name in sources[split].names]
    backbone = load_teacher("pixels", image_size=8)
    image = Image.open(images / names[100]).convert("RGB")
    pixels = backbone.preprocessing.transform(image).flatten().numpy()
    assert found.dtype == np.float32
    # float32 arithmetic
    np.testing.assert_allclose(found[100], pixels / np.linalg.norm(pixels), rtol=1e-5)
    assert np.isnan(found).all(1).nonzero()[0].tolist() == [BLACK, UNREADABLE]


def test_a_dataset_becomes_a_table(dataset: Dataset, images: Path, tmp_path: Path) -> None:
    embed_any(EmbedConfig(data=dataset.path, out=tmp_path / "e.parquet", teacher="pixels", image_size=8))
    embed_any(EmbedConfig(data=images, out=tmp_path / "e.npy", teacher="pixels", image_size=8))
    table, array = pq.read_table(tmp_path / "e.parquet"), np.load(tmp_path / "e.npy")
    assert table.schema.field("embedding").type.value_type == "float"
    assert table["path"].to_pylist() == (tmp_path / "e.names.txt").read_text().splitlines()
    for row, found in enumerate(table["embedding"].to_pylist()):
        if row in (BLACK, UNREADABLE):
            assert found is None
        else:
            np.testing.assert_array_equal(np.float32(found), array[row])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "x.zarr"}, "is no dataset.*pack"),
        ({"teacher": None}, "either --run RUN or --teacher NAME"),
        ({"run": Path("r")}, "either --run RUN or --teacher NAME"),
        ({"run": Path("r"), "teacher": None, "weights": Path("w")}, "--weights belongs to --teacher"),
        ({"run": Path("absent"), "teacher": None}, "run folder absent does not exist"),
    ],
)
def test_wrong_use_of_embed_is_a_sentence(images: Path, tmp_path: Path, changes: dict, message: str) -> None:
    values = {"data": images, "out": "x.npy", "teacher": "pixels", **changes}
    with pytest.raises(WrongUse, match=message):
        embed_any(EmbedConfig(**{**values, "out": tmp_path / values["out"]}))


def test_an_unknown_kind_of_file_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"ends in '\.csv'; expected \.npy or \.parquet"):
        export_embeddings(["a"], np.ones((1, 2), np.float32), tmp_path / "e.csv")


def test_no_scheduler_at_the_address_is_a_sentence(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.embedding.dask_workers.SECONDS_TO_CONNECT", 0.2)
    with pytest.raises(WrongUse, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        embed(teacher("wide"), dataset, tmp_path / "s.zarr", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(WrongUse, match="--batch-size 0"):
        embed(teacher("wide"), dataset, tmp_path / "s.zarr", batch_size=0)


def test_the_terminate_signal_is_an_interruption_while_the_cluster_is_open(scheduler: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (
        open_client(workers=1, threads=1, device="cpu", scheduler=scheduler),
        pytest.raises(KeyboardInterrupt),
    ):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_each_worker_sees_one_of_the_devices_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible_device(number) for number in range(3)] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [visible_device(number) for number in range(3)] == ["2", "5", "2"]


def test_a_second_writer_of_a_store_is_refused_and_a_reader_is_not(
    dataset: Dataset, whole: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(whole, copy)
    (copy / "train" / "embedding" / "c" / "0" / "1" / "0").unlink()
    before = files(copy)
    with sole_writer(copy):
        with pytest.raises(InUse, match=r"copy\.zarr is being written by process"):
            embed(teacher("wide"), dataset, copy, workers=1, batch_size=16)
        assert len(open_store(copy).split("train").absent) == 1
    after = files(copy)
    assert {name: after[name] for name in before if name != ".lock"} == {
        name: content for name, content in before.items() if name != ".lock"
    }
