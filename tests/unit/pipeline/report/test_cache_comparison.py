"""What `cache compare` says of caches with planted embeddings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.layout import ChunkKey
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
from pipeline.embedding.convert import convert_cache
from pipeline.errors import WrongUse
from pipeline.report.cache_comparison import compare_caches
from pipeline.report.markdown import write_report
from pipeline.settings.cache_commands import CompareConfig, ConvertConfig

ROWS, DIM, CLASSES = 240, 12, 4
LABELS = np.arange(ROWS, dtype=np.int64) % CLASSES


def stored(path: Path, features: np.ndarray, *, labels: np.ndarray = LABELS, images: str = "1" * 64) -> Path:
    create_store(path, {"planted": path.name})
    identity: dict[str, Any] = {"split": "train", "rows": len(features), "classes": [], "images": images}
    made: dict[str, Any] = {"dataset": identity, "rows": len(features), "views": 1, "dim": features.shape[1]}
    create_split(
        path, "train", **made, labels=labels, thumbs=np.full(len(features), int(images[0]), np.uint64)
    )
    embedding, norm, status = normalize(features.astype(np.float32))
    crop = np.zeros((len(features), 5), np.float32)
    write_chunk(
        path, "train", ChunkKey(0, 0), ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status)
    )
    return path


def compared(capsys: pytest.CaptureFixture[str], *caches: Path, rows: int = ROWS) -> dict[str, Any]:
    compare_caches(CompareConfig(caches=caches, rows=rows, json=True, device="cpu"))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def noise(seed: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((ROWS, dim))


def test_planted_classes_have_their_accuracy_and_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apart = stored(tmp_path / "apart.zarr", np.eye(CLASSES, DIM)[LABELS] + 0.01 * noise(0))
    mixed = stored(tmp_path / "mixed.zarr", noise(1))
    found = compared(capsys, apart, mixed)
    assert found["rows"] == ROWS
    first, second = found["caches"]
    assert first["nn1"] == 1
    assert second["nn1"] == pytest.approx(1 / CLASSES, abs=4 * (0.25 * 0.75 / ROWS) ** 0.5)
    # four directions of equal weight have three dimensions around their mean; noise nearly fills all twelve
    assert first["effective_rank"] == pytest.approx(3, abs=0.1)
    assert second["effective_rank"] > 11
    # cosine 1 within a class, 0 between
    same = (ROWS / CLASSES - 1) / (ROWS - 1)
    assert first["mean_cosine"] == pytest.approx(same, abs=0.01)
    assert second["mean_cosine"] == pytest.approx(0, abs=0.02)
    assert first["overlap"][0] == second["overlap"][1] == 1
    # ten neighbours of sixty in one class against ten drawn from all
    assert first["overlap"][1] < 0.15


def test_a_rotation_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rotation = np.linalg.qr(noise(3)[:DIM])[0]
    plain = stored(tmp_path / "plain.zarr", noise(2))
    turned = stored(tmp_path / "turned.zarr", noise(2) @ rotation)
    first, second = compared(capsys, plain, turned)["caches"]
    # float16 rows exchange neighbours that are nearly as near
    assert first["overlap"][1] > 0.98
    for name in ("effective_rank", "mean_cosine", "hubness"):
        assert first[name] == pytest.approx(second[name], abs=0.05)


def test_hubs_raise_the_hubness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # in many dimensions, rows near the mean of all are the nearest of most
    features = noise(4, 64)
    features[:5] *= 0.05
    features[:, 0] += 8
    hubs = stored(tmp_path / "hubs.zarr", features)
    even = stored(tmp_path / "even.zarr", np.eye(CLASSES, DIM)[LABELS] + 0.3 * noise(5))
    first, second = compared(capsys, hubs, even)["caches"]
    assert first["hubness"] > second["hubness"] + 1


def test_equal_rows_are_neighbours_but_not_of_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # thirty rows of each of eight directions: more equal rows than neighbours, labelled by halves
    features = np.eye(8, DIM)[np.arange(ROWS) % 8]
    labels = np.where(
        np.arange(ROWS) < 8, 1, 0
    )  # the first row of each direction, which comes first among equals
    cache = stored(tmp_path / "equal.zarr", features, labels=labels)
    # the nearest other row of a first row is a second, of any other it is the first: never of the own label, but
    # among the rest the first of equals is the row of label 1
    assert compared(capsys, cache)["caches"][0]["nn1"] == 0


def test_bytes_and_divergence_are_of_each_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, forms = stored(tmp_path / "plain.zarr", noise(2)), ("int8", "pca:6", "zstd")
    for form in forms:
        convert_cache(ConvertConfig(cache=plain, out=tmp_path / f"{form}.zarr", as_=form))
    capsys.readouterr()
    found = compared(capsys, plain, *[tmp_path / f"{form}.zarr" for form in forms])
    half, eight, six, packed = found["caches"]
    # one chunk of 4,096 rows, with a checksum of 4 bytes for each file
    assert half["bytes_per_row"] == 2 * DIM + 4 / 4096
    assert eight["bytes_per_row"] == DIM + 4 + 8 / 4096
    assert six["bytes_per_row"] == 2 * 6 + 4 / 4096
    assert 0 < packed["bytes_per_row"] < 2 * DIM + 1
    assert half["divergence"] == packed["divergence"] == 0
    assert 0 < eight["divergence"] < 0.01 < six["divergence"]


def test_a_recorded_comparison_becomes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, stored(tmp_path / "c.zarr", noise(6)))
    record, page = tmp_path / "caches.json", tmp_path / "page.md"
    record.write_text(json.dumps(found))
    page.write_text("<!-- results:caches -->\n<!-- /results:caches -->\n")
    write_report([record], page, "caches")
    lines = page.read_text().splitlines()
    assert lines[1] == "| cache | dim | bytes | 1-NN | effective rank | mean cosine | hubness | divergence |"
    cells = lines[3].strip("| ").split(" | ")
    assert cells[:3] == ["c.zarr", "12", "24"]
    assert cells[3] == f"{100 * found['caches'][0]['nn1']:.1f}"
    assert "240 training images; `" in lines[5]


def test_without_labels_and_on_fewer_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = stored(tmp_path / "c.zarr", noise(6), labels=np.full(ROWS, -1, np.int64))
    found = compared(capsys, cache, rows=50)
    assert (found["rows"], found["caches"][0]["nn1"]) == (50, None)
    compare_caches(CompareConfig(caches=(cache, cache), rows=50, device="cpu"))
    printed = capsys.readouterr().out
    assert "on 50 training images" in printed
    assert "10 neighbours in common" in printed


def test_images_without_a_label_are_no_neighbours_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.where(np.arange(ROWS) % 9 < 5, -1, LABELS)
    cache = stored(tmp_path / "c.zarr", np.eye(CLASSES, DIM)[LABELS] + 0.01 * noise(0), labels=labels)
    assert compared(capsys, cache)["caches"][0]["nn1"] == 1


def test_caches_of_other_images_or_too_few_rows_are_refused(tmp_path: Path) -> None:
    one = stored(tmp_path / "one.zarr", noise(7))
    other = stored(tmp_path / "other.zarr", noise(8), images="2" * 64)
    with pytest.raises(WrongUse, match=r"other\.zarr and .*one\.zarr are caches of different images"):
        compare_caches(CompareConfig(caches=(one, other), device="cpu"))
    empty = np.zeros((ROWS, DIM))
    empty[:19] = 1
    few = stored(tmp_path / "few.zarr", empty)
    with pytest.raises(WrongUse, match="19 rows have an embedding in every cache: expected at least 20"):
        compare_caches(CompareConfig(caches=(one, few), device="cpu"))
