"""Reading a folder of PASCAL VOC: the images of each split and the objects on them.

    VOC2007/ImageSets/Main/SPLIT.txt   one image name per line
    VOC2007/Annotations/NAME.xml       its objects
    VOC2007/JPEGImages/NAME.jpg        or .JPG, .jpeg, .JPEG, .Jpg, .Jpeg

Everingham, Van Gool, Williams, Winn, Zisserman, IJCV 2010.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.identity import identity_id
from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate.voc.average_precision import IGNORED, NEGATIVE, POSITIVE, Truth
from pipeline.images.decode import UnreadableImage, decode

SPLITS = ("train", "val", "test")
SUFFIXES = (".JPG", ".jpeg", ".JPEG", ".Jpg", ".Jpeg")


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """An object. box: left, top, right, bottom in px, where the whole image is 0, 0, width, height.

    VOC counts pixels from 1 and includes the last one, so the box is xmin - 1, ymin - 1, xmax, ymax.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True, kw_only=True)
class VocSplit:
    """The images of one list in ImageSets/Main, in its order, and the objects on each."""

    folder: Path
    name: str
    images: tuple[str, ...]
    objects: tuple[tuple[VocObject, ...], ...]

    def __add__(self, other: "VocSplit") -> "VocSplit":
        """Concatenate two splits, as VOC's trainval is train and val."""
        return VocSplit(
            folder=self.folder,
            name=f"{self.name}+{other.name}",
            images=self.images + other.images,
            objects=self.objects + other.objects,
        )

    def read(self, row: int) -> bytes:
        """Return the bytes of an image file. Raises UnreadableImage if it cannot be read."""
        try:
            return self._path(row).read_bytes()
        except OSError as error:
            raise UnreadableImage(error.strerror or str(error)) from error

    def image(self, row: int) -> Image.Image:
        """Return an image as upright RGB. Raises PipelineError if it cannot be read."""
        try:
            return decode(self.read(row))
        except UnreadableImage as error:
            raise PipelineError(f"{self._path(row)} cannot be read: {error}; unpack VOC again") from error

    def classes(self) -> tuple[str, ...]:
        """Return the sorted names of all objects, the order of VOC's 20 classes."""
        return tuple(sorted({thing.name for things in self.objects for thing in things}))

    def labels(self, classes: tuple[str, ...]) -> NDArray[np.int64]:
        """Return labels (n, classes): POSITIVE, NEGATIVE, or IGNORED if all objects of the class are difficult.

        Raises PipelineError for an object of another class, or a class without any POSITIVE.
        """
        label = np.full((len(self.images), len(classes)), NEGATIVE)
        for row, things in enumerate(self.objects):
            for thing in things:
                if thing.name not in classes:
                    raise PipelineError(
                        f"{self.name} in {self.folder} has a {thing.name!r} on {self.images[row]}, but the classes of "
                        f"the training images are {', '.join(classes)}; correct the annotations"
                    )
                place = row, classes.index(thing.name)
                if not thing.difficult:
                    label[place] = POSITIVE
                elif label[place] == NEGATIVE:
                    label[place] = IGNORED
        for name, present in zip(classes, (label == POSITIVE).any(axis=0), strict=True):
            if not present:
                raise PipelineError(
                    f"no image of {self.name} in {self.folder} has a {name!r} that is not difficult, so the class has "
                    "no average precision; add such an image, or remove the class from all annotations"
                )
        return label

    def truth(self, name: str) -> list[Truth]:
        """Return the objects of one class, image by image."""
        chosen = [[thing for thing in things if thing.name == name] for things in self.objects]
        return [
            Truth(
                box=np.array([thing.box for thing in things], np.float64).reshape(-1, 4),
                difficult=np.array([thing.difficult for thing in things], np.bool_),
            )
            for things in chosen
        ]

    def sha256(self) -> str:
        """Return a hex digest of the image names and their objects, in order."""
        return hashlib.sha256(repr((self.images, self.objects)).encode()).hexdigest()

    def _path(self, row: int) -> Path:
        """Return the path of an image file; NAME.jpg if there is none."""
        usual = self.folder / "JPEGImages" / f"{self.images[row]}.jpg"
        others = (usual.with_name(f"{self.images[row]}{suffix}") for suffix in SUFFIXES)
        return usual if usual.exists() else next((path for path in others if path.exists()), usual)


def read_split(folder: Path, name: str) -> VocSplit:
    """Read the images of ImageSets/Main/NAME.txt and their annotations.

    Raises WrongUse when the folder does not have VOC's layout, PipelineError for a missing or malformed annotation.
    """
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        raise WrongUse(
            f"there is no {path}: expected a folder like VOCdevkit/VOC2007, with both the trainval and the test "
            "archive unpacked"
        )
    images = tuple(path.read_text(encoding="utf-8").split())
    if not images:
        raise PipelineError(f"{path} names no image; unpack VOC again")
    objects = tuple(read_objects(folder / "Annotations" / f"{image}.xml") for image in images)
    return VocSplit(folder=folder, name=name, images=images, objects=objects)


def folder_id(folder: Path) -> str:
    """Return a hex digest of all image names and objects. Raises as read_split."""
    return identity_id({name: read_split(folder, name).sha256() for name in SPLITS})


def read_objects(path: Path) -> tuple[VocObject, ...]:
    """Read the objects of one annotation, without their parts such as a person's head."""
    try:
        return tuple(_read_object(element) for element in ElementTree.parse(path).iterfind("object"))
    except FileNotFoundError as error:
        raise PipelineError(f"there is no annotation {path}; unpack VOC again") from error
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise PipelineError(f"the annotation {path} cannot be read ({error}); unpack VOC again") from error


def _read_object(element: ElementTree.Element) -> VocObject:
    left, top, right, bottom = (
        float(_text(element, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")
    )
    if not (right >= left >= 0 and bottom >= top >= 0):
        raise ValueError(f"the box {left:g}, {top:g}, {right:g}, {bottom:g} is not left, top, right, bottom")
    return VocObject(
        name=_text(element, "name"),
        box=(left - 1, top - 1, right, bottom),
        difficult=(element.findtext("difficult") or "0").strip() == "1",
    )


def _text(element: ElementTree.Element, path: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"an object has no {path}")
    return text
