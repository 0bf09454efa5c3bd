"""`cache combine`: the cosine of the combined embeddings is the weighted mean of the teachers' centred ones."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import IdentityMismatch, IncompleteStore
from cache.layout import ChunkKey, SplitShape, Status
from cache.reader import Split, open_store
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
from pipeline.embedding.combine import checked_weights, combine_caches
from pipeline.errors import WrongUse
from pipeline.settings.cache_commands import CombineConfig
from pipeline.training.distill import distill
from tests.support import tiny_store
from tests.support.tiny_store import contents
from tests.support.training_runs import settings, weights

ROWS = 400


def teacher(
    path: Path,
    dim: int,
    seed: int,
    *,
    images: str = "1",
    thumbs: int = 0,
    splits: tuple[str, ...] = ("train", "val"),
) -> Path:
    """Write a store of embeddings with a mean of their own; row `seed` is unreadable."""
    create_store(path, {"architecture": f"planted {seed}", "dim": dim}, {"name": f"t{seed}"})
    draws, shape = np.random.default_rng(seed), SplitShape(rows=ROWS, views=1, dim=dim)
    for name in splits:
        create_split(
            path,
            name,
            dataset=tiny_store.dataset_of(shape) | {"split": name, "images": images * 64},
            rows=ROWS,
            views=1,
            dim=dim,
            labels=tiny_store.labels_of(shape),
            thumbs=tiny_store.thumbs_of(shape) + np.uint64(thumbs),
        )
        features = draws.normal(size=(ROWS, dim)) * draws.uniform(0.1, 2) + seed
        embedding, norm, status = normalize(features.astype(np.float32))
        embedding[seed], norm[seed], status[seed] = np.nan, np.nan, Status.UNREADABLE
        crop = np.tile(np.float32([0, 0, 1, 1, 0]), (ROWS, 1))
        write_chunk(
            path, name, ChunkKey(0, 0), ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status)
        )
    return path


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("teachers")
    return [teacher(folder / f"{seed}.zarr", dim, seed) for seed, dim in ((1, 12), (2, 30), (3, 7))]


def combine(caches: list[Path], out: Path, **changes: Any) -> Split:
    combine_caches(CombineConfig(caches=tuple(caches), out=out, **changes))
    return open_store(out).split("train")


def parts(teachers: list[Path], rows: np.ndarray, weights: list[float]) -> np.ndarray:
    """Return the combined embeddings as their definition says, in double precision."""
    found = []
    for path, weight in zip(teachers, weights, strict=True):
        split = open_store(path).split("train")
        known = split.gather(split.eligible()).astype(np.float64)
        centred = known - known.mean(0)
        spread = np.sqrt((centred**2).sum(1).mean())
        found.append(np.sqrt(weight) * (split.gather(rows).astype(np.float64) - known.mean(0)) / spread)
    whole = np.concatenate(found, axis=1)
    return np.asarray(whole / np.linalg.norm(whole, axis=1, keepdims=True))


@pytest.mark.parametrize(("given", "weights"), [((), [1 / 3] * 3), (("2", "1", "1"), [0.5, 0.25, 0.25])])
def test_embeddings_are_the_balanced_parts_side_by_side(
    teachers: list[Path], tmp_path: Path, given: tuple[str, ...], weights: list[float]
) -> None:
    found = combine(teachers, tmp_path / "c.zarr", weights=given)
    rows = found.eligible()
    assert set(range(ROWS)) - set(rows) == {1, 2, 3}
    assert (found.status[0][[1, 2, 3]] == Status.UNREADABLE).all()
    np.testing.assert_allclose(found.gather(rows), parts(teachers, rows, weights), atol=1e-3)
    np.testing.assert_array_equal(found.label, open_store(teachers[0]).split("train").label)


def test_uncentred_the_cosine_is_the_weighted_mean(teachers: list[Path], tmp_path: Path) -> None:
    found = combine(teachers, tmp_path / "c.zarr", weights=("1", "1", "6"), uncentered=True)
    rows = found.eligible()
    embedding = found.gather(rows).astype(np.float64)
    expected = 0
    for path, weight in zip(teachers, (1 / 8, 1 / 8, 6 / 8), strict=True):
        own = open_store(path).split("train").gather(rows).astype(np.float64)
        expected = expected + weight * own @ own.T
    np.testing.assert_allclose(embedding @ embedding.T, expected, atol=3e-3)


def test_the_identity_names_teachers_and_weights(teachers: list[Path], tmp_path: Path) -> None:
    combine(teachers[:2], tmp_path / "a.zarr")
    combine(teachers[:2], tmp_path / "b.zarr", weights=("1", "3"))
    one, two = (open_store(tmp_path / name) for name in ("a.zarr", "b.zarr"))
    assert one.origin["name"] == "t1 + t2"
    assert [each["architecture"] for each in one.teacher["teachers"]] == ["planted 1", "planted 2"]
    assert one.id != two.id
    with pytest.raises(IdentityMismatch, match="parts"):
        combine(teachers[:2], tmp_path / "a.zarr", weights=("1", "3"))


def test_an_interrupted_combination_goes_on(teachers: list[Path], tmp_path: Path) -> None:
    whole = combine(teachers, tmp_path / "c.zarr").path
    before = contents(whole)
    for file in ("train/embedding/c/0/0/0", "val/norm/c/0/0"):
        (whole / file).unlink()
    combine(teachers, whole)
    assert contents(whole) == before


def test_a_student_is_trained_from_it(packed: Path, cached: Path, tmp_path: Path) -> None:
    combine([cached, Path(shutil.copytree(cached, tmp_path / "same.zarr"))], tmp_path / "c.zarr")
    config = settings(packed, tmp_path / "c.zarr", tmp_path / "run", epochs=1)
    distill(config)
    assert weights(config.run)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("1",), "--weights 1: expected 3 numbers, one for each cache"),
        (("1", "x", "1"), "--weights 1,x,1: expected numbers separated by commas"),
        (("1", "0", "1"), "--weights 1,0,1: expected numbers above 0"),
        (("1", "nan", "1"), "--weights 1,nan,1: expected numbers above 0"),
    ],
)
def test_weights_that_do_not_fit(
    teachers: list[Path], tmp_path: Path, given: tuple[str, ...], message: str
) -> None:
    with pytest.raises(WrongUse, match=message):
        combine(teachers, tmp_path / "c.zarr", weights=given)
    assert not (tmp_path / "c.zarr").exists()


def test_weights_are_relative() -> None:
    assert checked_weights(("1e308", "1e308"), 2) == [0.5, 0.5]


def test_caches_from_before_and_after_a_relabelling_belong_together(
    teachers: list[Path], tmp_path: Path
) -> None:
    relabelled = teacher(tmp_path / "relabelled.zarr", 5, 4, images="2")
    assert combine([teachers[0], relabelled], tmp_path / "c.zarr").shape.dim == 17


def test_caches_that_do_not_belong_together(teachers: list[Path], tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="expected two caches or more"):
        combine(teachers[:1], tmp_path / "c.zarr")
    other = teacher(tmp_path / "other.zarr", 5, 4, images="2", thumbs=1)
    with pytest.raises(WrongUse, match="are caches of different images; combine caches of one dataset"):
        combine([teachers[0], other], tmp_path / "c.zarr")
    val = teacher(tmp_path / "val.zarr", 5, 5, splits=("val",))
    with pytest.raises(WrongUse, match="not all of these caches have a split 'train'"):
        combine([teachers[0], val], tmp_path / "c.zarr")
    with pytest.raises(WrongUse, match="is a cache that is read"):
        combine(teachers, teachers[0])
    part = Path(shutil.copytree(teachers[1], tmp_path / "part.zarr"))
    (part / "val/embedding/c/0/0/0").unlink()
    with pytest.raises(IncompleteStore):
        combine([teachers[0], part], tmp_path / "c.zarr")
