"""Folders of PASCAL VOC are read, and damaged ones refused."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate.voc.average_precision import IGNORED, NEGATIVE, POSITIVE
from pipeline.evaluate.voc.data import VocObject, VocSplit, read_objects, read_split
from tests.support.voc_folder import draw_voc, write_annotation

DOG = VocObject(name="dog", box=(7, 0, 20, 30), difficult=False)


def split_of(*objects: tuple[VocObject, ...]) -> VocSplit:
    images = tuple(f"image-{number}" for number in range(len(objects)))
    return VocSplit(folder=Path("VOC2007"), name="train", images=images, objects=objects)


def thing(name: str, difficult: bool = False) -> VocObject:
    return VocObject(name=name, box=(0, 0, 1, 1), difficult=difficult)


def test_an_annotation_in_vocs_own_words(tmp_path: Path) -> None:
    path = tmp_path / "000005.xml"
    path.write_text(
        """<annotation>
        <filename>000005.jpg</filename><size><width>500</width><height>375</height><depth>3</depth></size>
        <object><name>chair</name><pose>Rear</pose><truncated>0</truncated><difficult>1</difficult>
            <bndbox><xmin>263</xmin><ymin>211</ymin><xmax>324</xmax><ymax>339</ymax></bndbox></object>
        <object><name>person</name><part><name>head</name>
            <bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>
            <bndbox><xmax>48.5</xmax><xmin>1</xmin><ymax>50</ymax><ymin>2</ymin></bndbox></object>
        </annotation>"""
    )
    assert read_objects(path) == (
        VocObject(name="chair", box=(262, 210, 324, 339), difficult=True),
        VocObject(name="person", box=(0, 1, 48.5, 50), difficult=False),
    )


def test_what_is_drawn_is_read_back(tmp_path: Path) -> None:
    root = draw_voc(tmp_path, {"train": 3, "val": 2})
    both = read_split(root, "train") + read_split(root, "val")
    assert both.images == ("train-0000", "train-0001", "train-0002", "val-0000", "val-0001")
    pixels = np.asarray(both.image(3), np.int64)
    (left, top, right, bottom) = map(int, both.objects[3][0].box)
    inside = pixels[top:bottom, left:right].reshape(-1, 3)
    assert inside.max(axis=1).mean() > 200
    assert pixels[:, 60:].std() < inside.std()


def test_the_labels_of_an_image(tmp_path: Path) -> None:
    split = split_of(
        (thing("cat"), thing("cat", difficult=True)), (thing("cat", difficult=True), thing("dog")), ()
    )
    assert split.classes() == ("cat", "dog")
    assert split.labels(("cat", "dog")).tolist() == [
        [POSITIVE, NEGATIVE],
        [IGNORED, POSITIVE],
        [NEGATIVE, NEGATIVE],
    ]


def test_the_order_of_objects_does_not_matter() -> None:
    one = split_of((thing("cat"), thing("cat", difficult=True)))
    other = split_of((thing("cat", difficult=True), thing("cat")))
    assert one.labels(("cat",)).tolist() == other.labels(("cat",)).tolist() == [[POSITIVE]]


def test_the_boxes_of_one_class_by_image() -> None:
    truth = split_of((thing("cat"), DOG), (), (VocObject(name="dog", box=(1, 2, 3, 4), difficult=True),))
    boxes = [one.box.tolist() for one in truth.truth("dog")]
    assert boxes == [[[7, 0, 20, 30]], [], [[1, 2, 3, 4]]]
    assert [one.difficult.tolist() for one in truth.truth("dog")] == [[False], [], [True]]


def test_the_hash_is_of_names_and_objects() -> None:
    assert split_of((DOG,)).sha256() == split_of((DOG,)).sha256()
    others = split_of((thing("dog"),)), split_of((DOG,), ()), split_of(())
    assert len({split_of((DOG,)).sha256(), *(other.sha256() for other in others)}) == 4


def test_a_class_of_the_test_images_alone_is_refused() -> None:
    with pytest.raises(
        PipelineError, match="'bird' on image-1, but the classes of the training images are cat, dog"
    ):
        split_of((thing("cat"),), (thing("bird"),)).labels(("cat", "dog"))


def test_a_class_that_is_only_difficult_is_refused() -> None:
    with pytest.raises(PipelineError, match="no image of train in VOC2007 has a 'dog' that is not difficult"):
        split_of((thing("cat"), thing("dog", difficult=True))).labels(("cat", "dog"))


def test_a_folder_of_another_layout_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="expected a folder like VOCdevkit/VOC2007"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        (None, "there is no annotation .*image.xml"),
        ("<annotation><object>", "cannot be read .*no element found"),
        ("<annotation><object><name>dog</name></object></annotation>", "no bndbox/xmin"),
        (
            "<annotation><object><name>dog</name><bndbox><xmin>9</xmin><ymin>1</ymin><xmax>5</xmax>"
            "<ymax>9</ymax></bndbox></object></annotation>",
            "the box 9, 1, 5, 9 is not left, top, right, bottom",
        ),
        (
            "<annotation><object><name>dog</name><bndbox><xmin>one</xmin><ymin>1</ymin><xmax>5</xmax>"
            "<ymax>9</ymax></bndbox></object></annotation>",
            "could not convert string to float",
        ),
    ],
)
def test_a_broken_annotation_is_named(tmp_path: Path, annotation: str | None, sentence: str) -> None:
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("image\n")
    if annotation is not None:
        (tmp_path / "Annotations").mkdir()
        (tmp_path / "Annotations" / "image.xml").write_text(annotation)
    with pytest.raises(PipelineError, match=sentence):
        read_split(tmp_path, "train")


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\n")
    with pytest.raises(PipelineError, match=r"train\.txt names no image"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("suffix", ["JPG", "jpeg", "JPEG"])
def test_an_image_is_found_however_its_suffix_is_written(tmp_path: Path, suffix: str) -> None:
    root = draw_voc(tmp_path, {"train": 2})
    split = read_split(root, "train")
    expected = split.image(0).tobytes()
    usual = root / "JPEGImages" / "train-0000.jpg"
    usual.rename(usual.with_suffix(f".{suffix}"))
    assert split.image(0).tobytes() == expected


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    write_annotation(tmp_path / "Annotations" / "one.xml", [DOG])
    split = VocSplit(folder=tmp_path, name="train", images=("one",), objects=((DOG,),))
    with pytest.raises(PipelineError, match=r"one\.jpg cannot be read: No such file"):
        split.image(0)
