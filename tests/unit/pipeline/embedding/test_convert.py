"""`cache convert`: every form against its formula, in small."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import hadamard as scipy_hadamard

from cache.errors import CorruptStore, IdentityMismatch, IncompleteStore
from cache.int8 import quantized, widened
from cache.layout import ChunkKey, SplitShape, Status
from cache.projection import read_projection
from cache.reader import Split, open_store
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
from pipeline.embedding.conversions import Rotation
from pipeline.embedding.convert import convert_cache
from pipeline.embedding.verify_repair import verify_cache
from pipeline.errors import WrongUse
from pipeline.settings.cache_commands import ConvertConfig, VerifyConfig
from pipeline.training.distill import distill
from tests.support import tiny_store
from tests.support.tiny_store import contents
from tests.support.training_runs import settings

RANK = 6
SHAPE = SplitShape(rows=500, views=2, dim=24)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose embeddings span RANK dimensions but for rounding; rows 3 and 5 have none."""
    path = tmp_path_factory.mktemp("source") / "teacher.zarr"
    create_store(path, {"architecture": "planted", "dim": 24}, {"name": "planted"})
    draws = np.random.default_rng(0)
    plane = draws.normal(size=(RANK, 24))
    for name in ("train", "val"):
        create_split(
            path,
            name,
            dataset=tiny_store.dataset_of(SHAPE) | {"split": name},
            rows=SHAPE.rows,
            views=2,
            dim=24,
            labels=tiny_store.labels_of(SHAPE),
            thumbs=tiny_store.thumbs_of(SHAPE),
            crop_scale=(0.2, 1.0),
        )
        for key in SHAPE.chunk_keys:
            features = (np.exp(draws.normal(size=(SHAPE.rows, RANK))) @ plane).astype(np.float32)
            features[5] = 0
            embedding, norm, status = normalize(features)
            embedding[3], norm[3], status[3] = np.nan, np.nan, Status.UNREADABLE
            crop = draws.random((SHAPE.rows, 5)).astype(np.float32)
            write_chunk(path, name, key, ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status))
    return path


def convert(source: Path, out: Path, form: str) -> Split:
    convert_cache(ConvertConfig(cache=source, out=out, as_=form))
    return open_store(out).split("train")


def embedding_of(split: Split, view: int = 0) -> np.ndarray:
    return split.gather(split.eligible([0, 1]), view).astype(np.float64)


def cosines(split: Split, view: int) -> np.ndarray:
    rows = embedding_of(split, view)
    return rows @ rows.T


def assert_same_but_embeddings(split: Split, other: Split, *columns: str) -> None:
    for name in ("status", "norm", "crop", "label", "thumb", *columns):
        np.testing.assert_array_equal(getattr(split, name), getattr(other, name), err_msg=name)
    assert split.dataset == other.dataset


@pytest.mark.parametrize("view", [0, 1])
def test_int8(source: Path, tmp_path: Path, view: int) -> None:
    original = open_store(source).split("train")
    found = convert(source, tmp_path / "c.zarr", "int8")
    rows = np.arange(SHAPE.rows)
    expected = widened(*quantized(original.gather(rows, view)))
    np.testing.assert_array_equal(found.gather(rows, view), expected)
    assert_same_but_embeddings(found, original)
    assert open_store(tmp_path / "c.zarr").teacher["conversions"] == ["int8"]


@pytest.mark.parametrize("dim", [8, 24, 7, 1000])
def test_a_rotation_is_rounds_of_hadamards_matrix(dim: int) -> None:
    rotation, rows = Rotation(dim), np.random.default_rng(0).normal(size=(7, dim)).astype(np.float32)
    expected, block = rows.astype(np.float64), rotation.block
    for signs, order in rotation.rounds:
        expected = (expected * signs)[:, order]
        expected[:, :block] = expected[:, :block] @ scipy_hadamard(block) / np.sqrt(block)
    np.testing.assert_allclose(rotation(rows), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rotation(rows) @ rotation(rows).T, rows @ rows.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dim", [768, 1000, 1280])
def test_a_rotation_spreads_one_large_value_over_all(dim: int) -> None:
    rotated = Rotation(dim)(np.eye(dim, dtype=np.float32))
    assert np.abs(rotated).max(1).mean() < 8 / np.sqrt(dim)


def test_rotated_int8_keeps_cosines_and_says_what_it_is(source: Path, tmp_path: Path) -> None:
    original, found = open_store(source).split("train"), convert(source, tmp_path / "c.zarr", "int8-rotated")
    np.testing.assert_allclose(cosines(found, 1), cosines(original, 1), atol=0.02)
    rotated, int8 = open_store(tmp_path / "c.zarr").teacher["conversions"]
    assert (rotated, int8) == (f"rotated {Rotation(24).fingerprint()}", "int8")


def test_principal_components_of_all_directions_there_are_keep_every_cosine(
    source: Path, tmp_path: Path
) -> None:
    original, found = open_store(source).split("train"), convert(source, tmp_path / "c.zarr", f"pca:{RANK}")
    assert found.shape.dim == RANK
    for view in (0, 1):
        np.testing.assert_allclose(cosines(found, view), cosines(original, view), atol=3e-3)  # float16
    usable = original.status[0] == Status.OK
    np.testing.assert_allclose(found.norm[0][usable], original.norm[0][usable], rtol=2e-3)
    np.testing.assert_array_equal(found.status, original.status)


def test_fewer_components_are_the_best_projection(source: Path, tmp_path: Path) -> None:
    original, found = open_store(source).split("train"), convert(source, tmp_path / "c.zarr", "pca:3")
    rows = original.gather(original.eligible()).astype(np.float64)
    left = np.linalg.svd(rows, full_matrices=False)[2][:3].T
    projection = read_projection(tmp_path / "c.zarr", "train")
    assert projection is not None
    np.testing.assert_allclose(np.abs((projection * left).sum(0)), 1, atol=1e-4)
    projected = rows @ projection
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.gather(original.eligible()), expected, atol=1e-3)
    identity = open_store(tmp_path / "c.zarr").teacher
    assert identity["dim"] == 3
    assert re.fullmatch(r"pca:3 [0-9a-f]{16}", identity["conversions"][0])


def test_an_archive_and_back_is_the_same_store(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "archive.zarr", "zstd")
    back = convert(tmp_path / "archive.zarr", tmp_path / "back.zarr", "fp16")
    assert open_store(back.path).id == open_store(source).id
    files = {name: data for name, data in contents(source).items() if not name.endswith(".lock")}
    assert {name: data for name, data in contents(back.path).items() if not name.endswith(".lock")} == files


def test_fewer_bits_are_another_teacher(source: Path, tmp_path: Path) -> None:
    found = convert(source, tmp_path / "c.zarr", "zstd:5")
    assert open_store(tmp_path / "c.zarr").teacher["conversions"] == ["zstd:5"]
    np.testing.assert_allclose(
        embedding_of(found), embedding_of(open_store(source).split("train")), rtol=2**-6, atol=1e-5
    )


def test_conversions_follow_each_other(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "a.zarr", "pca:8")
    small = convert(tmp_path / "a.zarr", tmp_path / "b.zarr", "int8")
    convert(tmp_path / "b.zarr", tmp_path / "c.zarr", "zstd")
    wide = convert(tmp_path / "c.zarr", tmp_path / "d.zarr", "fp16")
    kinds = [each.split()[0] for each in open_store(tmp_path / "d.zarr").teacher["conversions"]]
    assert kinds == ["pca:8", "int8", "float16"]
    rows = small.eligible()
    np.testing.assert_array_equal(wide.gather(rows), small.gather(rows))


@pytest.mark.parametrize("form", ["int8", "pca:3"])
def test_an_interrupted_conversion_goes_on(source: Path, tmp_path: Path, form: str) -> None:
    whole, path = convert(source, tmp_path / "whole.zarr", form), tmp_path / "c.zarr"
    shutil.copytree(whole.path, path)
    for file in ("train/embedding/c/1/0/0", "val/embedding/c/0/0/0", "val/status/c/0/0"):
        (path / file).unlink()
    convert(source, path, form)
    assert contents(path) == contents(whole.path)
    with pytest.raises(IdentityMismatch, match=r"conversions\[0\]|conversions: expected"):
        convert(source, path, "int8-rotated")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("float32", "--as float32: expected fp16, zstd, zstd:BITS, int8, int8-rotated or pca:DIM"),
        ("zstd:2", "--as zstd:2: expected 3 to 9 bits of a float16's mantissa"),
        ("zstd:10", "--as zstd:10: expected 3 to 9 bits of a float16's mantissa"),
        ("pca:24", "--as pca:24: expected 2 dimensions or more, and fewer than the cache's 24"),
        ("pca:1", "--as pca:1: expected 2 dimensions or more"),
        ("fp16", "--as fp16: .* is in float16 already"),
    ],
)
def test_forms_that_do_not_apply(source: Path, tmp_path: Path, form: str, message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        convert(source, tmp_path / "c.zarr", form)
    assert not (tmp_path / "c.zarr").exists()


def test_what_int8_excludes_and_the_cache_itself(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "c.zarr", "int8")
    with pytest.raises(WrongUse, match="is in int8 already"):
        convert(tmp_path / "c.zarr", tmp_path / "d.zarr", "int8-rotated")
    with pytest.raises(WrongUse, match="has no mantissa to round; use zstd"):
        convert(tmp_path / "c.zarr", tmp_path / "d.zarr", "zstd:4")
    with pytest.raises(WrongUse, match="is a cache that is read: name another path"):
        convert(source, source, "int8")


def test_an_archive_of_int8_becomes_the_int8_store_again(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "a.zarr", "int8")
    convert(tmp_path / "a.zarr", tmp_path / "b.zarr", "zstd")
    convert(tmp_path / "b.zarr", tmp_path / "c.zarr", "int8")
    one, two = (
        {name: data for name, data in contents(tmp_path / store).items() if not name.endswith(".lock")}
        for store in ("a.zarr", "c.zarr")
    )
    assert one == two


def test_a_store_inside_a_store_is_refused(source: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(source, tmp_path / "c.zarr"))
    for inner in ("sub.zarr", "train/sub.zarr"):
        with pytest.raises(WrongUse, match=r"is inside the store .*c\.zarr.*: name a path beside it"):
            convert(path, path / inner, "int8")
    assert contents(path) == contents(source)


def test_a_damaged_converted_store_is_named_with_the_way_out(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "c.zarr", "int8")
    file = tmp_path / "c.zarr/train/embedding/c/0/0/0"
    data = file.read_bytes()
    file.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    with pytest.raises(
        CorruptStore, match="delete these files and run the command that made it from another cache"
    ):
        verify_cache(VerifyConfig(cache=tmp_path / "c.zarr"))
    with pytest.raises(CorruptStore, match="have changed since they were written"):
        convert(source, tmp_path / "c.zarr", "int8")
    file.unlink()
    convert(source, tmp_path / "c.zarr", "int8")
    assert file.read_bytes() == data


def test_an_incomplete_cache_is_refused(source: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(source, tmp_path / "part.zarr"))
    (path / "train/embedding/c/1/0/0").unlink()
    with pytest.raises(IncompleteStore):
        convert(path, tmp_path / "c.zarr", "int8")


@pytest.mark.parametrize("form", ["int8", "int8-rotated", "pca:8", "zstd:6", "zstd"])
def test_a_student_is_trained_from_every_form(packed: Path, cached: Path, tmp_path: Path, form: str) -> None:
    convert(cached, tmp_path / "c.zarr", form)
    losses = {}
    for name, cache in (("original", cached), ("converted", tmp_path / "c.zarr")):
        config = settings(packed, cache, tmp_path / name, epochs=2)
        distill(config)
        lines = (config.run / "metrics.jsonl").read_text().splitlines()
        losses[name] = json.loads(lines[-1])["loss"]
    if form == "zstd":
        assert losses["converted"] == losses["original"]
    else:  # with a rotation or fewer dimensions, the head starts in another space
        near = 0.5 if form.startswith(("pca", "int8-rotated")) else 0.02
        assert losses["converted"] == pytest.approx(losses["original"], rel=near)


def test_rows_of_a_converted_cache_are_not_recomputed(packed: Path, cached: Path, tmp_path: Path) -> None:
    convert(cached, tmp_path / "c.zarr", "int8")
    verify_cache(VerifyConfig(cache=tmp_path / "c.zarr"))
    with pytest.raises(
        WrongUse, match=r"was converted \(int8\), so its rows are not what its teacher computes"
    ):
        verify_cache(VerifyConfig(cache=tmp_path / "c.zarr", rows=5, dataset=packed))


def test_keys_of_a_split() -> None:
    assert SHAPE.chunk_keys == [ChunkKey(0, 0), ChunkKey(1, 0)]
