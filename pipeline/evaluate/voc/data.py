"""PASCAL VOC's layout: which images a split has, and what is where on them.

    VOC2007/ImageSets/Main/SPLIT.txt   one image's name a line
    VOC2007/Annotations/NAME.xml       its objects
    VOC2007/JPEGImages/NAME.jpg

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


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """An object: box in px as left, top, right, bottom, where the image is 0, 0, width, height.

    VOC counts pixels from 1 and includes the last, so these are xmin - 1, ymin - 1, xmax and ymax.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True, kw_only=True)
class VocSplit:
    """The images of one list in ImageSets/Main in its order, and the objects on each."""

    folder: Path
    name: str
    images: tuple[str, ...]
    objects: tuple[tuple[VocObject, ...], ...]

    def __add__(self, other: "VocSplit") -> "VocSplit":
        """The images of both, these first; VOC's trainval is train and val."""
        return VocSplit(
            folder=self.folder,
            name=f"{self.name}+{other.name}",
            images=self.images + other.images,
            objects=self.objects + other.objects,
        )

    def read(self, row: int) -> bytes:
        """The file of an image; UnreadableImage if it is not there."""
        try:
            return self._path(row).read_bytes()
        except OSError as error:
            raise UnreadableImage(error.strerror or str(error)) from error

    def image(self, row: int) -> Image.Image:
        """An image, upright RGB; PipelineError if it cannot be read."""
        try:
            return decode(self.read(row))
        except UnreadableImage as error:
            raise PipelineError(f"{self._path(row)} cannot be read: {error}; unpack VOC again") from error

    def classes(self) -> tuple[str, ...]:
        """The names of its objects, sorted: the 20 of VOC are in this order."""
        return tuple(sorted({thing.name for things in self.objects for thing in things}))

    def labels(self, classes: tuple[str, ...]) -> NDArray[np.int64]:
        """(n, classes): POSITIVE, NEGATIVE, or IGNORED where all of a class's objects are difficult.

        Raises PipelineError for an object of another class, or a class that is nowhere POSITIVE.
        """
        label = np.full((len(self.images), len(classes)), NEGATIVE)
        for row, things in enumerate(self.objects):
            for thing in things:
                if thing.name not in classes:
                    raise PipelineError(
                        f"{self._told()} has a {thing.name!r} on {self.images[row]}, but the classes are "
                        f"{', '.join(classes)}, those of the images to learn from; mend the annotations"
                    )
                place = row, classes.index(thing.name)
                if not thing.difficult:
                    label[place] = POSITIVE
                elif label[place] == NEGATIVE:
                    label[place] = IGNORED
        for name, present in zip(classes, (label == POSITIVE).any(axis=0), strict=True):
            if not present:
                raise PipelineError(
                    f"no image of {self._told()} has a {name!r} that is not difficult, so no precision can be "
                    "told for that class; add such an image, or take the class out of all annotations"
                )
        return label

    def truth(self, name: str) -> list[Truth]:
        """The objects of one class, image by image."""
        chosen = [[thing for thing in things if thing.name == name] for things in self.objects]
        return [
            Truth(
                box=np.array([thing.box for thing in things], np.float64).reshape(-1, 4),
                difficult=np.array([thing.difficult for thing in things], np.bool_),
            )
            for things in chosen
        ]

    def sha256(self) -> str:
        """Hex digest of the names of the images and of their objects, in order."""
        return hashlib.sha256(repr((self.images, self.objects)).encode()).hexdigest()

    def _path(self, row: int) -> Path:
        return self.folder / "JPEGImages" / f"{self.images[row]}.jpg"

    def _told(self) -> str:
        return f"{self.name} in {self.folder}"


def read_split(folder: Path, name: str) -> VocSplit:
    """The images of ImageSets/Main/NAME.txt with their annotations.

    Raises WrongUse when folder is not of VOC's layout, PipelineError for an annotation missing or malformed.
    """
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        raise WrongUse(
            f"there is no {path}: expected a folder like VOCdevkit/VOC2007, into which VOC's archives of "
            "trainval and of test were both unpacked"
        )
    images = tuple(path.read_text().split())
    if not images:
        raise PipelineError(f"{path} names no image; unpack VOC again")
    objects = tuple(read_objects(folder / "Annotations" / f"{image}.xml") for image in images)
    return VocSplit(folder=folder, name=name, images=images, objects=objects)


def folder_id(folder: Path) -> str:
    """Hex digest of the names of all images and of their objects; raises as read_split."""
    return identity_id({name: read_split(folder, name).sha256() for name in SPLITS})


def read_objects(path: Path) -> tuple[VocObject, ...]:
    """The objects of one annotation; their parts, such as a person's head, are left out."""
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
