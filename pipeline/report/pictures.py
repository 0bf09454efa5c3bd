"""Images of a dataset as small pictures inside a page."""

import base64
import io
from dataclasses import dataclass

from PIL import Image, ImageOps

from pipeline.images.dataset import DatasetSplit
from pipeline.images.decode import decode

SIDE = 96  # pixels; a smaller image keeps its own size


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A square picture: its data URI, the class of the image ("" if none), and the name of its file."""

    uri: str
    label: str
    name: str


def picture(split: DatasetSplit, row: int) -> Picture:
    """The centre square of a readable row's original image.

    Raises WrongUse when the images are no longer where they were, PipelineError when this one is another.
    """
    label = int(split.labels[row])
    return Picture(
        uri=data_uri(decode(split.source.read(row))),
        label=split.classes[label] if label >= 0 else "",
        name=split.names[row],
    )


def data_uri(image: Image.Image) -> str:
    """The centre square as a JPEG of at most SIDE pixels."""
    side = min(*image.size, SIDE)
    written = io.BytesIO()
    square = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    square.save(written, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")
