"""The very backbone that a store was made by, found from what the store tells."""

from pathlib import Path

from cache.errors import IdentityMismatch
from cache.identity import identity_difference
from cache.reader import Store
from pipeline.errors import WrongUse
from pipeline.models.backbone import Backbone
from pipeline.teachers.backbone_spec import BackboneSpec


def open_teacher_of_cache(
    store: Store, teacher: str = "", weights: Path | None = None
) -> tuple[BackboneSpec, Backbone]:
    """A store's backbone, and how a worker loads it. teacher, weights: what the store does not tell.

    A student's store lies in its run folder, which says the rest. Raises WrongUse when nothing tells which backbone
    that is, and IdentityMismatch, field by field, when the one that was found is another.
    """
    preprocessing = store.teacher.get("preprocessing", {})
    if "run" in store.origin and not teacher:
        spec = BackboneSpec(kind="run", run=store.path.resolve().parent)
    else:
        name = teacher_name(store, teacher, weights)
        spec = BackboneSpec(kind="teacher", name=name, weights=weights, image_size=preprocessing.get("crop"))
    backbone = spec.load()
    # another resize: the backbone's own, not that of --image-size
    if spec.image_size and backbone.preprocessing.identity() != preprocessing:
        spec = BackboneSpec(kind="teacher", name=spec.name, weights=weights)
        backbone = spec.load()
    found = backbone.identity()
    differences = identity_difference({field: store.teacher.get(field) for field in found}, found)
    if differences:
        raise IdentityMismatch(
            f"{backbone.name} is not the teacher of {store.path} ({'; '.join(differences)}): "
            "give the --teacher and --weights that it was made with"
        )
    return spec, backbone


def teacher_name(store: Store, teacher: str, weights: Path | None) -> str:
    """`teacher`, or what the store says: the name that its teacher was asked for by, or an architecture that is one."""
    named = teacher or store.origin.get("name")
    if named:
        return named
    architecture: str = store.teacher["architecture"]
    if ":" in architecture or (weights and architecture.startswith(("timm/", "torchvision/"))):
        return architecture
    raise WrongUse(
        f"{store.path} tells its teacher's architecture only, {architecture}: give --teacher NAME, and --weights FILE "
        "if it needs one, as for cache-teacher"
    )
