"""Pictures of the images that are shown, by their index: thumbnails, sheets of small ones, and larger copies."""

import io
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageOps

from pipeline.browse.gallery import Gallery
from pipeline.errors import PipelineError
from pipeline.images.decode import UnreadableImage, decode

SIDE = 96  # px of a thumbnail
TILE = 64  # px of a thumbnail on a sheet
TILES_PER_LINE = 8
MOST_TILES = 64  # of a sheet
LARGEST = 640  # px of the longer side of an image that is shown
KEPT = 20_000  # thumbnails, about 3 kB each
GRAY = (128, 128, 128)


class Thumbnails:
    """JPEG copies of a gallery's images. The thumbnails made last are kept; any thread may ask."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self.thumbnail = lru_cache(KEPT)(self._thumbnail)

    def image(self, index: int) -> bytes:
        """Return an image, reduced if it is larger than LARGEST. Raises PipelineError if it cannot be read."""
        image = self._read(index)
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        return jpeg(image)

    def _thumbnail(self, index: int) -> bytes:
        """Return the centre square, SIDE px wide at most. Raises PipelineError if the image cannot be read."""
        image = self._read(index)
        side = min(*image.size, SIDE)
        return jpeg(ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS))

    def sheet(self, indices: Sequence[int]) -> bytes:
        """Return thumbnails of TILE px side by side, eight in a line; an image that cannot be read is gray."""
        lines = -(-len(indices) // TILES_PER_LINE)
        sheet = Image.new("RGB", (TILES_PER_LINE * TILE, lines * TILE), GRAY)
        for place, index in enumerate(indices):
            try:
                tile = Image.open(io.BytesIO(self.thumbnail(index)))
            except PipelineError:
                continue
            line, column = divmod(place, TILES_PER_LINE)
            resized = tile.resize((TILE, TILE), Image.Resampling.BICUBIC)
            sheet.paste(resized, (column * TILE, line * TILE))
        return jpeg(sheet)

    def _read(self, index: int) -> Image.Image:
        images, row = self._gallery.images, int(self._gallery.rows[index])
        try:
            return decode(images.source.read(row))
        except (UnreadableImage, OSError) as error:
            raise PipelineError(f"row {row}, {images.names[row]}, cannot be read: {error}") from error


def jpeg(image: Image.Image) -> bytes:
    """Return an image as a JPEG file."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return content.getvalue()
