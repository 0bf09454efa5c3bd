import hashlib
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.demo_data import class_of, demo_data, distinct_drawings, joined, split_by_series
from pipeline.images.sources import open_sources
from tests.support import drawn_clip_art

EACH = 12
NAMES = {"people", "plants", "tools"}


@pytest.fixture
def drawings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """36 drawings in three classes, as if the package were installed."""
    folder = drawn_clip_art.write_drawings(tmp_path / "package", EACH)
    drawn_clip_art.install(monkeypatch, folder)
    return folder


def held(out: Path) -> dict[str, str]:
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in out.rglob("*.png")
    }


def counts(out: Path) -> Counter[str]:
    return Counter(str(Path(path).parent) for path in held(out))


def test_three_quarters_of_each_class_are_to_learn_from(tmp_path: Path, drawings: Path) -> None:
    out = demo_data(tmp_path / "new" / "demo")
    assert out == tmp_path / "new" / "demo"
    assert counts(out) == {f"{split}/{name}": n for split, n in (("train", 9), ("val", 3)) for name in NAMES}
    assert {split: set(source.classes) for split, source in open_sources(out).items()} == {
        "train": NAMES,
        "val": NAMES,
    }
    assert held(demo_data(tmp_path / "again")) == held(out)


def test_fewer_images_are_as_many_of_each_class(tmp_path: Path, drawings: Path) -> None:
    out = demo_data(tmp_path / "demo", train=7, val=2)
    assert sorted(n for path, n in counts(out).items() if path.startswith("train")) == [2, 2, 3]
    assert sum(n for path, n in counts(out).items() if path.startswith("val")) == 2
    assert held(out).items() <= held(demo_data(tmp_path / "whole")).items()


def test_equal_drawings_count_once(drawings: Path) -> None:
    original = drawings / "plants" / "a.png"
    moved = ImageOps.expand(Image.open(original), 20, (0, 0, 0, 0))  # on a larger page
    moved.save(drawings / "plants" / "zz.png")
    (drawings / "plants" / "0.png").symlink_to("a.png")
    assert len(distinct_drawings(drawings)) == 3 * EACH


def test_a_series_is_in_one_split() -> None:
    series = {f"food/fruit/apple_{number:02}.png": number for number in range(5)}
    colors = {f"food/fruit/{name}.png": 77 for name in ("red", "green", "blue")}
    others = {f"food/fruit/{name * 3}.png": 1000 + ord(name) for name in "abcdefghijklmnopqrstuvwxyz"}
    elsewhere = {"people/apple_09.png": 0, "people/red.png": 77}
    splits = split_by_series({**series, **colors, **others, **elsewhere})
    for together in (series, colors):
        assert len({split for split, paths in splits.items() if set(paths) & set(together)}) == 1
    assert len(splits["val"]) == 34 // 4
    assert not set(splits["val"]) & set(elsewhere)  # a class of two has no quarter


def test_groups_join_by_way_of_others() -> None:
    keyed: list[tuple[str, set[object]]] = [("a", {1}), ("b", {2}), ("c", {1, 2}), ("d", {3}), ("e", {4, 3})]
    assert sorted(joined(keyed)) == [["a", "b", "c"], ["d", "e"]]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("food/fruit/a.png", "food"),
        ("people/a.png", "people"),
        ("recreation/a.png", "recreation"),
        ("recreation/games/cards/a.png", ""),
        ("signs_and_symbols/flags/asia/a.png", ""),
        ("unsorted/a.png", ""),
    ],
)
def test_the_top_folder_is_the_class_where_it_means_something(path: str, name: str) -> None:
    assert class_of(path) == name


def test_drawings_without_a_label_are_in_train_alone(tmp_path: Path, drawings: Path) -> None:
    first = sorted((drawings / "plants").glob("*.png"))
    (drawings / "unsorted").mkdir()
    for number in range(3):  # other pages than those of plants, as identical drawings count once
        drawn = Image.open(first[number]).convert("RGBA")
        drawn.putpixel((40, 60), (250, 0, 250, 255))
        drawn.save(drawings / "unsorted" / f"{'xyz'[number]}.png")
    out = demo_data(tmp_path / "demo")
    train = open_sources(out)["train"]
    unlabelled = [name for name, label in zip(train.names, train.labels, strict=True) if label == -1]
    assert unlabelled
    assert all(name.startswith("unsorted-") for name in unlabelled)
    assert counts(out) == {
        "train": len(unlabelled),
        **{f"{split}/{name}": n for split, n in (("train", 9), ("val", 3)) for name in NAMES},
    }


def test_what_a_drawing_in_val_is_like_is_not_in_train() -> None:
    food = {f"food/{name}.png": number for number, name in enumerate("abcdefgh")}
    splits = split_by_series(food)
    like_val = {f"unsorted/{number}.png": food[path] for number, path in enumerate(splits["val"])}
    assert split_by_series({**food, **like_val, "unsorted/new.png": 99}) == {
        "train": [*splits["train"], "unsorted/new.png"],
        "val": splits["val"],
    }


@pytest.mark.parametrize("path", ["shapes/stars/star_01.png", "people/stylized_yoga_person_ger_03.png"])
def test_stars_and_broken_drawings_are_left_out(drawings: Path, path: str) -> None:
    (drawings / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), "red").save(drawings / path)
    assert path not in distinct_drawings(drawings)


def test_what_is_there_already_is_left_alone(tmp_path: Path, drawings: Path) -> None:
    out = demo_data(tmp_path / "demo", train=6, val=3)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    assert demo_data(out, train=6, val=3) == out
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    message = r"expected all in train/, 3 in val/, found 6 in train/, 3 in val/; choose another folder"
    with pytest.raises(WrongUse, match=message):
        demo_data(out, val=3)
    (out / "demo.json").unlink()
    with pytest.raises(WrongUse, match="is not what demo-data wrote; choose another folder"):
        demo_data(out, train=6, val=3)


def test_what_a_killed_demo_left_is_cleared_away(tmp_path: Path, drawings: Path) -> None:
    half = tmp_path / "out" / ".demo.partial" / "train" / "fruit" / "half.png"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"")
    out = demo_data(tmp_path / "out" / "demo")
    assert [path.name for path in out.parent.iterdir()] == ["demo"]
    assert len(held(out)) == 3 * EACH


def test_nothing_is_left_of_a_demo_that_was_cut_short(
    tmp_path: Path, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def stop_after_ten(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        demo_data(tmp_path / "out" / "demo")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "1 image or more"), (-1, "1 image or more"), (28, "1 to 27 images")]
)
def test_a_count_that_cannot_be_is_refused(tmp_path: Path, drawings: Path, count: int, expected: str) -> None:
    with pytest.raises(WrongUse, match=f"train: expected {expected}, found {count}"):
        demo_data(tmp_path / "demo", train=count)
    assert not (tmp_path / "demo").exists()


def test_a_package_that_cannot_be_had_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_clip_art.install(monkeypatch, tmp_path / "absent")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        PipelineError, match=r"cannot download https://no\.example/drawings\.deb .*apt-get install drawings"
    ):
        demo_data(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
