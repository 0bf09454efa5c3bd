"""Training batches of a detector: every image once, boxes flipped with their image."""

from dataclasses import replace

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.evaluate.voc.batches import batches, example
from pipeline.evaluate.voc.data import VocObject, VocSplit, read_split
from tests.support.voc_folder import COLOURS, SIDE, draw_voc


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> VocSplit:
    return read_split(draw_voc(tmp_path_factory.mktemp("drawn"), {"train": 10}), "train")


@pytest.mark.parametrize("flip", [False, True])
def test_a_box_stays_on_its_rectangle(split: VocSplit, flip: bool) -> None:
    numbers = {name: label for label, name in enumerate(COLOURS)}
    for row in range(len(split.images)):
        image, target = example(split, row, numbers, flip)
        assert image.shape == (3, SIDE, SIDE)
        for box, label in zip(target["boxes"].long().tolist(), target["labels"].tolist(), strict=True):
            left, top, right, bottom = box
            inside = image[:, top:bottom, left:right].mean(dim=(1, 2)) * 255
            expected = torch.tensor(COLOURS[list(COLOURS)[label]], dtype=torch.float32)
            # JPEG blurs the rim and halves the colour's resolution
            assert (inside - expected).abs().max() < 40


def test_difficult_objects_are_not_learnt_from(split: VocSplit) -> None:
    things = VocObject(name="cat", box=(0, 0, 9, 9), difficult=True), split.objects[0][0]
    changed = replace(split, images=split.images[:1], objects=(things,))
    _, target = example(changed, 0, {name: label for label, name in enumerate(COLOURS, 1)}, False)
    assert target["boxes"].tolist() == [list(split.objects[0][0].box)]
    _, target = example(replace(changed, objects=(things[:1],)), 0, {"cat": 1}, False)
    assert (target["boxes"].shape, target["labels"].dtype) == ((0, 4), torch.int64)


def test_a_box_outside_of_its_image_is_named(split: VocSplit) -> None:
    wide = (VocObject(name="cat", box=(0, 0, SIDE + 1, 9), difficult=False),)
    with pytest.raises(PipelineError, match=rf"{split.images[0]} of .* outside of its 64 x 64 px"):
        example(replace(split, objects=(wide,)), 0, {"cat": 1}, False)


def test_an_epoch_has_every_image_once_in_its_own_order(split: VocSplit) -> None:
    epochs = {
        key: [image for images, _ in batches(split, 4, *key) for image in images]
        for key in [(0, 0), (0, 1), (1, 0)]
    }
    sizes = [len(images) for images, _ in batches(split, 4, 0, 0)]
    again = [image for images, _ in batches(split, 4, 0, 0) for image in images]
    assert sizes == [4, 4, 2]
    assert all(torch.equal(one, other) for one, other in zip(epochs[0, 0], again, strict=True))
    for key in [(0, 1), (1, 0)]:
        assert not all(torch.equal(one, other) for one, other in zip(epochs[0, 0], epochs[key], strict=True))
    # a flip moves no pixel up or down
    profiles = {key: sorted(float(image.sum()) for image in images) for key, images in epochs.items()}
    assert profiles[0, 0] == pytest.approx(profiles[0, 1], rel=1e-4)
