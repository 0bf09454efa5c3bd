"""`cache convert`: write a cache in another form, smaller or readable by more, with every split and view."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.archive_writer import write_archive
from cache.columns import chunk_columns
from cache.footprint import folder_bytes
from cache.layout import ChunkKey, Status
from cache.lock import sole_writer
from cache.metadata import archive_of, read_split_attributes
from cache.projection import read_projection, write_projection
from cache.reader import Split, Store, open_store
from cache.user_folder import as_typed, url_of
from cache.writer import (
    ChunkRows,
    absent_chunks,
    create_split,
    create_store,
    normalize,
    write_chunk,
    write_columns,
)
from pipeline.embedding.conversions import Form, Rotation, fingerprint, parse_form, principal_components
from pipeline.errors import WrongUse
from pipeline.results.plain_text import human_bytes
from pipeline.runtime.progress import Progress
from pipeline.settings.cache_commands import ConvertConfig

SPLIT = "train"  # whose embeddings decide on principal components
Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def convert_cache(config: ConvertConfig) -> None:
    """Run the `cache convert` command; an interrupted one goes on, but for an archive, which starts over.

    Raises WrongUse for a form that does not apply, IncompleteStore for a cache that lacks chunks, IdentityMismatch if
    there is another store at `out`.
    """
    require_own_place(config.out, [config.cache])
    store = open_store(config.cache)
    splits = [store.split(name) for name in store.splits]
    form = parse_form(config.as_, splits[0].shape.dim)
    require_applicable(form, config, splits)
    for split in splits:
        split.require_complete()
        split.verify()
    if form.kind == "zstd":
        to_archive(store, form, config.out)
    else:
        to_store(store, splits, form, config.out)
    new, old = (folder_bytes(path) for path in (config.out, config.cache))
    print(
        f"{as_typed(config.out)}: {human_bytes(new)} as {config.as_}, {new / old:.2f} times {as_typed(config.cache)}"
    )


def require_own_place(out: Path, caches: Sequence[Path]) -> None:
    """Raise WrongUse if a store to write is one of those that are read, or inside of any store."""
    place = out.resolve()
    if any(place == cache.resolve() for cache in caches):
        raise WrongUse(f"{out} is a cache that is read: name another path for the new one")
    if inside := next((folder for folder in place.parents if (folder / "zarr.json").exists()), None):
        raise WrongUse(f"{out} is inside the store {inside}: name a path beside it")


def require_applicable(form: Form, config: ConvertConfig, splits: list[Split]) -> None:
    """Raise WrongUse for a form that the cache has already, or that an encoding excludes."""
    encodings = {split.shape.encoding for split in splits}
    if form.kind == "fp16" and encodings == {"float16"} and not archive_of(config.cache):
        raise WrongUse(f"--as fp16: {config.cache} is in float16 already")
    if (
        form.kind.startswith("int8")
        and "int8" in encodings
        and not (form.kind == "int8" and archive_of(config.cache))
    ):
        raise WrongUse(f"--as {form.kind}: {config.cache} is in int8 already")
    if form.kind == "zstd" and form.number and "int8" in encodings:
        raise WrongUse(
            f"--as {config.as_}: {config.cache} is in int8, which has no mantissa to round; use zstd"
        )
    if form.kind == "pca" and SPLIT not in {split.name for split in splits}:
        raise WrongUse(f"--as {config.as_}: {config.cache} has no split '{SPLIT}' to find the directions in")
    if form.kind == "pca" and not any(split.name == SPLIT and len(split.eligible()) for split in splits):
        raise WrongUse(f"--as {config.as_}: no training image of {config.cache} has an embedding")


def converted_identity(
    teacher: Mapping[str, Any], *conversions: str, dim: int | None = None
) -> dict[str, Any]:
    """Return a teacher's identity with further conversions, and another dim if that changes."""
    changed = dict(teacher)
    if conversions:
        changed["conversions"] = [*teacher.get("conversions", []), *conversions]
    return changed | ({"dim": dim} if dim else {})


def to_archive(store: Store, form: Form, out: Path) -> None:
    """Write a store as an archive. One that keeps all bits has the store's own identity."""
    if url_of(out) and out.exists() and not (out / "zarr.json").exists():
        shutil.rmtree(out)  # part of one, as it was sent; it cannot be continued
    conversions = [f"zstd:{form.number}"] if form.number else []
    with Progress(unit=" chunks") as bar:
        write_archive(store, out, converted_identity(store.teacher, *conversions), form.number, bar.move_to)


def to_store(store: Store, splits: list[Split], form: Form, out: Path) -> None:
    """Write what is missing of the converted store."""
    projection = projection_of(form, out, splits)
    identity, change, dim = described(store.teacher, form, splits[0], projection)
    create_store(out, identity, store.origin)
    with sole_writer(out):
        for split in splits:
            create_split(
                out,
                split.name,
                dataset=split.dataset,
                rows=split.shape.rows,
                views=split.shape.views,
                dim=dim,
                labels=split.label,
                thumbs=split.thumb,
                crop_scale=read_split_attributes(store.path, split.name)[2],
                encoding=form.encoding,
            )
            if projection is not None and split.name == SPLIT:
                write_projection(out, SPLIT, projection)
        missing = [(split, key) for split in splits for key in absent_chunks(out, split.name)]
        for split, key in Progress(missing, unit=" chunks"):
            if change is None and form.encoding == split.shape.encoding:
                columns = [column.name for column in chunk_columns(split.shape)]
                write_columns(out, split.name, key, {name: split.column(name, key) for name in columns})
            else:
                write_chunk(out, split.name, key, converted(split, key, change))
    for split in splits:
        open_store(out).split(split.name).verify()


def described(
    teacher: Mapping[str, Any], form: Form, split: Split, projection: NDArray[np.float32] | None
) -> tuple[dict[str, Any], Change | None, int]:
    """Return the converted store's identity, how its rows are changed (None: not), and its dim."""
    dim = split.shape.dim
    if projection is not None:
        conversion, width = f"pca:{projection.shape[1]} {fingerprint(projection)}", projection.shape[1]
        identity = converted_identity(teacher, conversion, dim=width if "dim" in teacher else None)
        return identity, lambda rows: rows @ projection, width
    if form.kind == "int8-rotated":
        rotation = Rotation(dim)
        return converted_identity(teacher, f"rotated {rotation.fingerprint()}", "int8"), rotation, dim
    conversion = "float16" if form.kind == "fp16" else form.kind
    # an archive becomes the store that it was made from
    is_same = form.encoding == split.shape.encoding
    return converted_identity(teacher, *([] if is_same else [conversion])), None, dim


def projection_of(form: Form, out: Path, splits: list[Split]) -> NDArray[np.float32] | None:
    """Return the directions of --as pca:DIM, those of an interrupted conversion if there are any; else None."""
    if form.kind != "pca":
        return None
    assert form.number is not None
    begun = read_projection(out, SPLIT)
    if begun is not None and begun.shape == (splits[0].shape.dim, form.number):
        return begun
    return principal_components(next(split for split in splits if split.name == SPLIT), form.number)


def converted(split: Split, key: ChunkKey, change: Change | None) -> ChunkRows:
    """Return the rows of a chunk with their embeddings changed. A row that has none keeps its status."""
    held = split.shape.rows_of(key)
    rows = np.arange(held.start, held.stop)
    embedding = split.gather(rows, key.view)
    norm, crop, status = (split.column(name, key) for name in ("norm", "crop", "status"))
    if change is not None:
        changed, length, fate = normalize(change(embedding.astype(np.float32)))
        usable = status == Status.OK
        # the length of the raw row in the new space
        norm = np.where(usable, norm * length, norm).astype(np.float32)
        status = np.where(usable, fate, status)
        embedding = np.where((status == Status.OK)[:, None], changed, np.float16(np.nan))
    return ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status)
