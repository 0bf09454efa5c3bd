"""What `pack` says about folders and parquet files whose labels or files are not as one may expect."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import WrongUse
from pipeline.images.source_notes import describe_labels, source_notes
from pipeline.images.sources import hint_for, open_sources
from pipeline.images.tables import Choice

NFC, NFD = "caf\u00e9", "cafe\u0301"


def plant(folder: Path, *paths: str) -> Path:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return folder


def notes(data: Path, **choice: str) -> str:
    return "\n".join(source_notes(data, open_sources(data, Choice(**choice))))


def test_usual_layouts_need_no_note(tmp_path: Path) -> None:
    assert (
        notes(plant(tmp_path / "one", "train/a/1.png", "train/b/1.jpg", "val/a/1.png", "val/b/1.png")) == ""
    )
    assert notes(plant(tmp_path / "two", "a/1.png", "b/.DS_Store", "b/1.png")) == ""
    assert notes(plant(tmp_path / "three", "1.png", "2.png")) == ""


def test_a_stray_image_is_named_and_the_labels_are_counted(tmp_path: Path) -> None:
    data = plant(tmp_path, "train/a/1.png", "train/b/1.png", "train/cover.png", "val/a/1.png", "val/b/1.png")
    assert "train: 1 image beside the class folders, cover.png: packed without a label" in notes(data)
    sources = open_sources(data)
    assert describe_labels(sources["train"]) == "3 images, 2 labelled, 2 classes"
    assert describe_labels(sources["val"]) == "2 images, 2 labelled, 2 classes"


def test_files_that_are_passed_over_are_counted_by_kind_and_a_class_of_them_is_named(tmp_path: Path) -> None:
    data = plant(tmp_path, "a/1.png", "b/1.XCF", "b/2.xcf", "b/3.psd", "c/4", "c/5.png", "readme.txt")
    said = notes(data)
    assert "train: passed over 5 files of kinds that are not read: 2 .xcf, 1 .psd" in said
    assert "1 without extension" in said
    assert "train: no class for b: no image there that pack reads" in said
    (data / "shard-0.tar").write_bytes(b"")
    assert "put .tar files, as webdataset writes them, into a folder without other images" in notes(data)
    with pytest.raises(WrongUse, match=r"no images in .*, but 2 \.xcf, 1 \.psd; expected"):
        open_sources(data / "b")


def test_kinds_that_need_something_have_a_hint() -> None:
    assert hint_for({".heic": 2}) == "; HEIC images are read once the package pillow-heif is installed"
    assert hint_for({".txt": 2}) == ""


@pytest.mark.parametrize(
    "names", [("training", "validation"), ("Train", "Val"), ("TRAIN", "valid"), ("train", "Val")]
)
def test_folders_named_nearly_like_splits_are_the_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    train, val = names
    data = plant(tmp_path, f"{train}/a/1.png", f"{train}/b/2.png", f"{val}/a/3.png", f"{val}/b/3.png")
    sources = open_sources(data)
    assert {split: source.place["folder"] for split, source in sources.items()} == {
        "train": train,
        "val": val,
    }
    assert sources["train"].classes == ("a", "b")
    assert f"{val}/ is taken as the split val" in notes(data)
    assert [source.read(0) for source in sources.values()] == [b"", b""]


def test_a_split_name_among_classes_is_a_class_and_said(tmp_path: Path) -> None:
    data = plant(tmp_path, "Train/1.png", "Bus/1.png")
    assert open_sources(data)["train"].classes == ("Bus", "Train")
    assert "Train is taken as a class; if it is a split, put the class folders into train/" in notes(data)


def test_the_folder_above_the_one_with_the_splits_is_noticed(tmp_path: Path) -> None:
    data = plant(
        tmp_path, "birds/train/a/1.png", "birds/train/b/1.png", "birds/val/a/1.png", "birds/val/b/2.png"
    )
    assert notes(data) == (
        f"all images are of one class, birds, with folders train, val in it: to pack its splits, give {data / 'birds'}"
    )
    assert "all images" not in notes(plant(tmp_path / "other", "birds/nests/1.png", "birds/eggs/1.png"))


def test_parquet_files_beside_folders_are_passed_over_and_said(tmp_path: Path) -> None:
    names = [f"{split}/{kind}/1.png" for split in ("train", "val") for kind in "ab"]
    said = notes(plant(tmp_path, *names, "train.parquet", "more.PARQUET"))
    assert said == (
        "passed over more.PARQUET, train.parquet beside the folders of images; to pack it, move it to a folder of its "
        "own"
    )


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="both Train/ and training/"):
        open_sources(plant(tmp_path, "Train/a/1.png", "training/a/1.png"))


def test_labels_that_only_one_split_has_are_named(tmp_path: Path) -> None:
    data = plant(tmp_path, "train/a/1.png", "train/b/1.png", "val/1.png", "docs/1.png")
    said = notes(data)
    assert "val has no labels, but train has: `eval` needs class folders" in said
    assert "passed over the images in docs/ beside the splits" in said
    said = notes(plant(tmp_path / "other", "train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"))
    assert "1 class of train not in val: b" in said
    assert "1 class of val not in train: c" in said


@pytest.mark.parametrize("pair", [(NFC, NFD), ("Dog", "dog"), ("dog", "dog ")])
def test_classes_with_one_name_in_two_forms_are_named(tmp_path: Path, pair: tuple[str, str]) -> None:
    data = plant(tmp_path, *(f"{name}/1.png" for name in pair))
    shown = " and ".join(map(ascii, sorted(pair)))
    assert f"the classes {shown} differ in letter case or Unicode form alone" in notes(data)


def test_test_may_be_taken_as_val(tmp_path: Path) -> None:
    data = plant(tmp_path, "train/a/1.png", "test/a/1.png")
    assert "--val-split test takes test as val" in notes(data)
    sources = open_sources(data, Choice(val="test"))
    assert {split: source.place["folder"] for split, source in sources.items()} == {
        "train": "train",
        "val": "test",
    }
    with pytest.raises(WrongUse, match=r"--val-split tset: .* has no folder tset/; did you mean 'test'"):
        open_sources(data, Choice(val="tset"))
    sources = open_sources(plant(data, "val/a/1.png", "val/a/2.png"), Choice(val="test"))
    assert sources["val"].place == {"folder": "test"}
    assert sorted(sources) == ["train", "val"]


def test_columns_that_were_not_chosen_are_said(tmp_path: Path) -> None:
    table = pa.table({"img": pa.array([b"1"], pa.binary()), "x": [0]})
    pq.write_table(table, tmp_path / "train.parquet")
    assert notes(tmp_path).splitlines() == [
        "train: images are from column img",
        "train: packed without labels, as there is no column label; name one with --label-column",
    ]
    assert "labels are from column x" in notes(tmp_path, label_column="x")
