"""Open the backbone that wrote a store, from what the store records."""

from pathlib import Path

from cache.errors import IdentityMismatch
from cache.identity import identity_difference
from cache.reader import Store
from pipeline.errors import WrongUse
from pipeline.models.backbone import Backbone, comparable
from pipeline.teachers.backbone_spec import BackboneSpec


def open_teacher_of_cache(
    store: Store, teacher: str | None = None, weights: Path | None = None
) -> tuple[BackboneSpec, Backbone]:
    """Open the backbone that wrote a store; return its spec for workers too.

    teacher, weights: needed if the store does not record them. A student is found through the run folder that contains
    its store. Raises WrongUse if the backbone is unknown, IdentityMismatch if the one found is another.
    """
    if conversions := store.teacher.get("conversions"):
        raise WrongUse(
            f"{store.path} was converted ({', '.join(conversions)}), so its rows are not what its teacher computes: "
            "name the cache that it was made from"
        )
    preprocessing = store.teacher.get("preprocessing", {})
    if "run" in store.origin and not teacher:
        spec = BackboneSpec(kind="run", run=store.path.resolve().parent)
    else:
        name = teacher_name(store, teacher, weights)
        spec = BackboneSpec(kind="teacher", name=name, weights=weights, image_size=preprocessing.get("crop"))
    backbone = spec.load()
    # not made with --image-size, then, but with the backbone's own resize
    if spec.image_size and comparable(backbone.preprocessing.identity(), preprocessing) != preprocessing:
        spec = BackboneSpec(kind="teacher", name=spec.name, weights=weights)
        backbone = spec.load()
    found = comparable(backbone.identity(), store.teacher)
    differences = identity_difference({field: store.teacher.get(field) for field in found}, found)
    if differences:
        raise IdentityMismatch(
            f"{backbone.name} is not the teacher of {store.path} ({'; '.join(differences)}): "
            "give the --teacher and --weights it was made with"
        )
    return spec, backbone


def teacher_name(store: Store, teacher: str | None, weights: Path | None) -> str:
    """Return `teacher`, or the name or architecture recorded in the store. Raises WrongUse if that is not enough."""
    named = teacher or store.origin.get("name")
    if named:
        return named
    architecture: str = store.teacher["architecture"]
    if ":" in architecture or (weights and architecture.startswith(("timm/", "torchvision/"))):
        return architecture
    raise WrongUse(
        f"{store.path} records only its teacher's architecture, {architecture}: give --teacher NAME, and "
        "--weights FILE if it needs one, as for cache-teacher"
    )
