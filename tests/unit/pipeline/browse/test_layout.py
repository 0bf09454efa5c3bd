"""Maps: what belongs together stays together, also where landmarks place the others, and a map is kept."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.browse import layout


def groups(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return unit rows (3 * count, 16) near three axes, and the number of their axis."""
    label = np.repeat(np.arange(3), count)
    rows = np.eye(3, 16)[label] + 0.05 * np.random.default_rng(0).standard_normal((len(label), 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), label


def nearest_of_another_group(points: np.ndarray, label: np.ndarray) -> float:
    """Return the share of points whose nearest other point is of another group."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return float((label[distance.argmin(1)] != label).mean())


@pytest.mark.parametrize("draw", [layout.quick_map, layout.full_map])
def test_groups_stay_together_within_the_frame(draw) -> None:  # type: ignore[no-untyped-def]
    embedding, label = groups()
    points = draw(embedding, 0)
    assert points.dtype == np.float32
    assert points.shape == (120, 2)
    assert np.abs(points).max() == pytest.approx(1)
    assert nearest_of_another_group(points, label) == 0


def test_landmarks_place_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LANDMARKS", 45)
    embedding, label = groups()
    assert nearest_of_another_group(layout.full_map(embedding, 0), label) == 0


def test_the_same_seed_draws_the_same_map() -> None:
    embedding, _ = groups()
    assert np.array_equal(layout.full_map(embedding, 1), layout.full_map(embedding, 1))


def test_equal_embeddings_lie_in_one_place() -> None:
    points = layout.scaled(np.ones((5, 2)))
    assert np.array_equal(points, np.zeros((5, 2), np.float32))
    alike = np.zeros((36, 8), np.float32)  # their mean is exact, and their deviation is zero
    alike[:, 3] = 1
    assert np.array_equal(layout.full_map(alike, 0), np.zeros((36, 2), np.float32))


def test_a_map_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    embedding, _ = groups()
    drawn = layout.kept_map(embedding, 0, "a")
    monkeypatch.setattr(layout, "full_map", lambda *given: pytest.fail("it was kept"))
    assert np.array_equal(layout.kept_map(embedding, 0, "a"), drawn)
    for other in ((embedding, 0, "b"), (embedding, 1, "a"), (embedding[:-1], 0, "a")):
        with pytest.raises(pytest.fail.Exception):
            layout.kept_map(*other)


def test_a_damaged_map_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    embedding, _ = groups()
    drawn = layout.kept_map(embedding, 0, "a")
    (file,) = (tmp_path / "anchorage" / "maps").glob("*.npy")
    file.write_bytes(file.read_bytes()[:-9])
    assert np.array_equal(layout.kept_map(embedding, 0, "a"), drawn)


def test_where_nothing_can_be_kept_the_map_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "anchorage").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert layout.kept_map(groups()[0], 0, "a").shape == (120, 2)
