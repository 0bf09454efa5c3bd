import gzip
import sys
import types

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError, WrongUse
from pipeline.images import demo_data as module
from pipeline.images.demo_data import CLASSES, demo_data

RNG = np.random.default_rng(0)
PIXELS = {stem: RNG.integers(0, 256, (n, 28, 28), np.uint8) for stem, n in (("train", 60), ("t10k", 30))}
LABELS = {stem: RNG.permutation(np.arange(len(PIXELS[stem])) % 10).astype(np.uint8) for stem in PIXELS}


@pytest.fixture(autouse=True)
def small_originals(tmp_path_factory, monkeypatch):
    """The four files as Zalando publishes them, of 60 and 30 images."""
    folder = tmp_path_factory.mktemp("originals")
    for stem in PIXELS:
        images, labels = PIXELS[stem].tobytes(), LABELS[stem].tobytes()
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels))
    monkeypatch.setattr(module, "DEBIAN", folder)
    monkeypatch.setattr(module, "IMAGES", {"train": 60, "val": 30})


def numbers(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*.png")}


def test_every_image_is_in_its_class_under_its_number(tmp_path):
    out = demo_data(tmp_path / "new" / "demo")
    assert out == tmp_path / "new" / "demo"
    for split, stem in (("train", "train"), ("val", "t10k")):
        expected = {f"{CLASSES[label]}/{number:05}.png": number for number, label in enumerate(LABELS[stem])}
        assert numbers(out / split) == set(expected)
        for path, number in expected.items():
            assert np.array_equal(np.asarray(Image.open(out / split / path)), PIXELS[stem][number])


def test_fewer_images_are_the_first_of_each_class(tmp_path):
    found = numbers(demo_data(tmp_path / "demo", train=25, val=10) / "train")
    for label, name in enumerate(CLASSES):
        mine = sorted(int(path.split("/")[1][:5]) for path in found if path.startswith(f"{name}/"))
        assert len(mine) in (2, 3)
        assert mine == np.flatnonzero(LABELS["train"] == label)[: len(mine)].tolist()
    assert len(found) == 25
    assert len(numbers(tmp_path / "demo" / "val")) == 10
    assert numbers(demo_data(tmp_path / "again", train=25, val=10)) == numbers(tmp_path / "demo")


def test_what_is_there_already_is_left_alone(tmp_path):
    out = demo_data(tmp_path / "demo", train=20, val=10)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    assert demo_data(out, train=20, val=10) == out
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    with pytest.raises(WrongUse, match="expected 60 images in train/ and 10 in val/, found 20 and 10"):
        demo_data(out, val=10)


def test_what_a_killed_demo_left_is_cleared_away(tmp_path):
    (tmp_path / ".demo.partial" / "train" / "Bag").mkdir(parents=True)
    (tmp_path / ".demo.partial" / "train" / "Bag" / "half.png").write_bytes(b"")
    demo_data(tmp_path / "demo", train=10, val=10)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert len(numbers(tmp_path / "demo")) == 20


def test_nothing_is_left_of_a_demo_that_was_cut_short(tmp_path, monkeypatch):
    written = []

    def stop_after_ten(image, path):
        written.append(path)
        if len(written) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        demo_data(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, -1, 61])
def test_a_count_that_cannot_be_is_refused(tmp_path, count):
    with pytest.raises(WrongUse, match=f"train: expected 1 to 60 images, found {count}"):
        demo_data(tmp_path / "demo", train=count)


def test_elsewhere_than_on_debian_torchvision_downloads(tmp_path, monkeypatch):
    originals = module.DEBIAN
    monkeypatch.setattr(module, "DEBIAN", tmp_path / "not here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def download(root, download):
        asked.append((root, download))
        return types.SimpleNamespace(raw_folder=str(originals))

    datasets = types.SimpleNamespace(FashionMNIST=download)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(datasets=datasets))
    assert len(numbers(demo_data(tmp_path / "demo"))) == 90
    assert asked == [(tmp_path / "cache" / "anchorage", True)]

    def no_network(root, download):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    datasets.FashionMNIST = no_network
    with pytest.raises(PipelineError, match=r"cannot download Fashion-MNIST .*dataset-fashion-mnist"):
        demo_data(tmp_path / "other")
    assert not (tmp_path / "other").exists()
