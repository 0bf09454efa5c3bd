"""Preprocessing of an upright RGB image into a backbone's input: resize, centre crop, normalize."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Protocol

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.runtime.code_identity import code_sha256

Box = tuple[float, float, float, float]
LARGEST_STD = 2.0  # of pixels from 0 to 1 it is at most 0.5, and 1 stands for none


class Transform(Protocol):
    """The interface of a preprocessing."""

    def transform(self, image: Image.Image) -> Tensor: ...

    def box(self, width: int, height: int) -> Box: ...

    def identity(self) -> dict[str, Any]: ...

    def at(self, image_size: int) -> "Transform": ...


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The standard evaluation transform: resize the shorter side to `resize` px with PIL (0: keep the size), center
    crop to `crop` px, then (x / 255 - mean) / std."""

    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise WrongUse(f"interpolation is {self.interpolation!r}; expected 'bilinear' or 'bicubic'")
        if self.crop < 1 or (self.resize and self.resize < self.crop):
            raise WrongUse(f"a crop of {self.crop} px does not fit into images resized to {self.resize} px")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(std > 0 for std in self.std):
            raise WrongUse(f"mean {self.mean} and std {self.std} must be three numbers each, and std above 0")
        if min(self.mean) < 0 or max(self.mean) > 1 or max(self.std) > LARGEST_STD:
            raise WrongUse(
                f"mean {self.mean} and std {self.std} cannot be those of pixels from 0 to 1; if they are of pixels "
                "from 0 to 255, divide both by 255"
            )

    def transform(self, image: Image.Image) -> Tensor:
        """PIL RGB -> float32 (3, crop, crop)."""
        return self.normalized(self.crop_of(image))

    def normalized(self, image: Image.Image) -> Tensor:
        """PIL RGB of crop px -> float32 (3, crop, crop)."""
        return F.normalize(F.to_tensor(image), self.mean, self.std)

    def crop_of(self, image: Image.Image) -> Image.Image:
        """Resize and crop an RGB image. Without resizing, a smaller image is padded."""
        if self.resize:
            image = F.resize(image, self.resize, InterpolationMode(self.interpolation))
        return F.center_crop(image, self.crop)

    def cut(self, image: Image.Image, view: tuple[int, int, int, int, bool]) -> Image.Image:
        """Return a view of an RGB image: top, left, height and width in px, and whether it is flipped; at crop px."""
        *box, is_flipped = view
        size, mode = [self.crop] * 2, InterpolationMode(self.interpolation)
        shown = F.resized_crop(image, *box, size, mode)
        return F.hflip(shown) if is_flipped else shown

    def box(self, width: int, height: int) -> Box:
        """Return the crop as top, left, height, width in fractions of the upright original of width x height px."""
        shown_width, shown_height = self._resized(width, height)
        top, left = self._margin(shown_height), self._margin(shown_width)
        return top / shown_height, left / shown_width, self.crop / shown_height, self.crop / shown_width

    def identity(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def at(self, image_size: int) -> "Preprocessing":
        """Return the same for another crop: below 128 px of the whole shorter side, else of the same share as now."""
        resize = image_size if image_size < 128 else round(image_size * self.resize / self.crop)
        return replace(self, resize=resize, crop=image_size)

    def _margin(self, length: int) -> int:
        if self.crop > length:
            return -((self.crop - length) // 2)
        return round((length - self.crop) / 2)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if not self.resize:
            return width, height
        shorter = min(width, height)
        return (
            self.resize if width == shorter else int(self.resize * width / height),
            self.resize if height == shorter else int(self.resize * height / width),
        )


@dataclass(frozen=True)
class UserPreprocessing:
    """The user's own callable PIL RGB -> float32 (3, H, W).

    name: to read. code: a hash of its code and settings, since a name or repr need not show them.
    """

    function: Callable[[Image.Image], Tensor]
    name: str = field(init=False)
    code: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self._name())
        try:
            object.__setattr__(self, "code", code_sha256(self.function))
        except PipelineError as error:
            raise PipelineError(
                f"the preprocessing {self.name} cannot be recorded in the cache: {error}"
            ) from error

    def transform(self, image: Image.Image) -> Tensor:
        try:
            tensor = self.function(image)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise PipelineError(f"the preprocessing {self.name} failed with {reason}") from error
        if not isinstance(tensor, Tensor) or tensor.ndim != 3 or not tensor.is_floating_point():
            raise PipelineError(f"the preprocessing {self.name} returned no float tensor of shape (3, H, W)")
        return tensor.float()

    def box(self, width: int, height: int) -> Box:
        """Return NaN: unknown."""
        return (float("nan"),) * 4

    def identity(self) -> dict[str, Any]:
        return {"callable": self.name, "code": self.code}

    def at(self, image_size: int) -> "UserPreprocessing":
        raise WrongUse("this teacher's own preprocessing decides the image size; leave the image size out")

    def _name(self) -> str:
        qualified = getattr(self.function, "__qualname__", None)
        if qualified:
            return f"{self.function.__module__}.{qualified}"
        return re.sub(r" at 0x[0-9a-f]+", "", repr(self.function), flags=re.IGNORECASE)


IMAGENET = Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def as_transform(settings: object, name: str) -> Transform:
    """Return the preprocessing that a teacher's function returned beside its module.

    settings: a Preprocessing, a mapping of its fields, a callable, or None for ImageNet's. name: of the teacher.
    """
    if settings is None:
        return IMAGENET
    if isinstance(settings, Preprocessing | UserPreprocessing):
        return settings
    if isinstance(settings, Mapping):
        return from_mapping(settings, name)
    if callable(settings):
        return UserPreprocessing(settings)
    kind = type(settings).__name__
    raise PipelineError(f"the preprocessing of {name} is a {kind}; expected a mapping or a callable")


def from_mapping(settings: Mapping[str, Any], name: str) -> Preprocessing:
    """Build a Preprocessing from its fields; resize None or 0 means no resizing. Raises WrongUse for wrong fields."""
    known = [field.name for field in fields(Preprocessing)]
    for key in settings:
        if key not in known:
            raise WrongUse(f"the preprocessing of {name} has no field {key!r}{suggest(key, known)}")
    missing = [key for key in known if key not in settings and key != "interpolation"]
    if missing:
        raise WrongUse(f"the preprocessing of {name} lacks {', '.join(missing)}")
    values = {key: _checked_field(key, value, name) for key, value in settings.items()}
    return Preprocessing(**values)


def _checked_field(key: str, value: Any, name: str) -> Any:
    """Return a field's value as a Preprocessing has it. Raises WrongUse for a value of another type."""
    plain = value.tolist() if hasattr(value, "tolist") else value  # a tensor or an array
    if key in ("mean", "std"):
        expected = "three numbers each for mean and std"
        if isinstance(plain, list | tuple) and len(plain) == 3 and all(map(_is_number, plain)):
            return tuple(map(float, plain))
    elif key == "interpolation":
        expected = "'bilinear' or 'bicubic'"
        if isinstance(value, InterpolationMode):
            return value.value
        if isinstance(plain, str):
            return plain
    else:
        expected = "an integer"
        if key == "resize" and plain is None:
            return 0
        if isinstance(plain, int) and not isinstance(plain, bool):
            return plain
    raise WrongUse(f"the preprocessing of {name}: {key} is {value!r}; expected {expected}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
