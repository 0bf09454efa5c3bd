"""Random views of a teacher: the crops that a student can be shown again, see `distill --replay`."""

from dataclasses import dataclass, replace

from PIL import Image

from pipeline.errors import WrongUse
from pipeline.images.preprocessing import Preprocessing
from pipeline.loading.random_crop import RandomCrop, first_view
from pipeline.models.backbone import Backbone

SEED = 0  # of all stores' views, and part of their identity
WHOLE_SCALE = RandomCrop().scale
Crop = tuple[float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class RandomView:
    """View number `number`, from 1 on: the crop that a student with seed 0 would see in epoch number - 1.

    scale: range of the crop's area as a share of the image. settings: the teacher's.
    """

    number: int
    scale: tuple[float, float]
    settings: Preprocessing

    @property
    def preprocessing(self) -> Preprocessing:
        """That of an image from `cut`, which already has the size of the teacher's input."""
        return replace(self.settings, resize=0)

    def cut(self, row: int, image: Image.Image) -> tuple[Image.Image, Crop]:
        """Return the view of an upright image at the size of the teacher's input, and its crop as a store keeps it.

        The crop: top, left, height and width as fractions of the image, and 1 if the view is flipped.
        """
        plan = RandomCrop(scale=self.scale)
        drawn = first_view(plan, SEED, self.number - 1, row, image.height, image.width)
        top, left, height, width, is_flipped = drawn
        crop = (top / image.height, left / image.width, height / image.height, width / image.width)
        return self.settings.cut(image, drawn), (*crop, float(is_flipped))


def random_view_of(backbone: Backbone, number: int, scale: tuple[float, float]) -> RandomView | None:
    """Return a teacher's view; None for view 0, its centre crop.

    Raises WrongUse for a preprocessing function of the user's own.
    """
    if number == 0:
        return None
    if not isinstance(backbone.preprocessing, Preprocessing):
        raise WrongUse(
            f"--views: {backbone.name} has its own preprocessing function, which cannot be given a crop; let it return "
            "its settings as a mapping instead, or leave --views out"
        )
    return RandomView(number=number, scale=scale, settings=backbone.preprocessing)
