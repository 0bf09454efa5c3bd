"""What the page finds in the background: clusters, maps, and the images on which a student fell furthest."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cache.reader import open_store
from cache.user_folder import copy_of
from pipeline.browse.findings import Findings, scatter_about
from pipeline.browse.gallery import Gallery, open_gallery
from pipeline.browse.systems import open_sides
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.settings.browse import BrowseConfig
from tests.support.report_targets import write_store


@pytest.fixture(scope="module")
def findings(gallery: Gallery) -> Findings:
    found = Findings(gallery, seed=0)
    assert found.state() == {
        "doing": "starting",
        "maps": [1, 0],
        "clusters": False,
        "furthest": [False, False],
    }
    found.work()
    return found


def with_student(gallery: Gallery, student: np.ndarray) -> Gallery:
    """Return the gallery with other embeddings of the student."""
    return Gallery(gallery.images, gallery.rows, gallery.sides, [gallery.embeddings[0], student])


def changed(config: BrowseConfig, **fields: object) -> BrowseConfig:
    return BrowseConfig(**{**vars(config), **fields})  # type: ignore[arg-type]


def test_all_is_found(findings: Findings) -> None:
    assert findings.state() == {"doing": "", "maps": [2, 2], "clusters": True, "furthest": [False, True]}


def test_planted_clusters_are_the_classes(findings: Findings, gallery: Gallery) -> None:
    assert findings.clusters is not None
    assert findings.cluster_of is not None
    assert [(cluster.size, cluster.share) for cluster in findings.clusters] == [(12, 1.0)] * 4
    assert sorted(cluster.name for cluster in findings.clusters) == sorted(gallery.images.classes)
    for number, cluster in enumerate(findings.clusters):
        assert (findings.cluster_of[cluster.examples] == number).all()
        assert {gallery.label(index) for index in cluster.examples} == {cluster.name}


def test_a_student_that_is_its_teacher_is_nowhere_far(gallery: Gallery) -> None:
    found = Findings(with_student(gallery, gallery.embeddings[0]), seed=0)
    found.compare(1)
    assert found.furthest[1] is not None
    assert (found.furthest[1].compared, found.furthest[1].recall) == (48, 1.0)
    assert found.furthest[1].divergence == pytest.approx(0, abs=1e-6)


def test_the_image_that_the_student_has_wrong_comes_first(gallery: Gallery) -> None:
    student = gallery.embeddings[0].copy()
    student[5] = gallery.embeddings[0][40]  # of another class
    found = Findings(with_student(gallery, student), seed=0)
    found.compare(1)
    assert found.furthest[1] is not None
    index, recall, divergence = found.furthest[1].worst[0]
    assert (index, recall) == (5, 0.0)
    assert divergence == max(value for *_, value in found.furthest[1].worst)


@pytest.mark.parametrize("error", [PipelineError("no such luck"), IndexError("no such luck")])
def test_a_step_that_fails_is_said_and_the_rest_is_found(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("pipeline.browse.findings.kmeans", fail)
    found = Findings(gallery, seed=0)
    found.work()
    assert capsys.readouterr().err == "warning: finding clusters failed: no such luck\n"
    assert found.state() == {"doing": "", "maps": [2, 2], "clusters": False, "furthest": [False, True]}


def test_the_teacher_of_a_run_is_found_and_comes_first(config: BrowseConfig) -> None:
    dataset = open_dataset(config.dataset)
    cache, run = config.targets
    for targets in ((run,), (run, cache), (cache, run)):
        sides = open_sides(changed(config, targets=targets), dataset)
        assert [side.store.path for side in sides] == [cache, run / "embeddings.zarr"]
        assert [side.teacher for side in sides] == [None, 0]
        assert [side.name for side in sides] == ["teacher planted", "tests.support.tiny_student:plain 1q"]


def test_the_local_copy_of_a_teacher_at_a_url_is_found(config: BrowseConfig, tmp_path: Path) -> None:
    cache, run = config.targets
    copied, trained = copy_of("s3://bucket/some/teacher.zarr"), tmp_path / "run"
    shutil.copytree(run, trained)
    record = json.loads((trained / "config.json").read_text())
    record["config"]["cache"] = "s3://bucket/some/teacher.zarr"
    (trained / "config.json").write_text(json.dumps(record))
    alone = changed(config, targets=(trained,))
    assert [side.run for side in open_sides(alone, open_dataset(config.dataset))] == [trained]
    shutil.copytree(cache, copied)
    try:
        sides = open_sides(alone, open_dataset(config.dataset))
        assert [side.store.path for side in sides] == [copied, trained / "embeddings.zarr"]
        assert [side.teacher for side in sides] == [None, 0]
    finally:
        shutil.rmtree(copied)


def test_scatter_takes_no_copy_of_the_embeddings() -> None:
    embedding = np.random.default_rng(0).standard_normal((20_500, 64), np.float32)
    centroids, found = embedding[:3], np.arange(len(embedding)) % 3
    expected = float(np.square(embedding - centroids[found]).sum(dtype=np.float64))
    tracemalloc.start()
    try:
        assert scatter_about(embedding, centroids, found) == pytest.approx(expected, rel=1e-5)
        assert tracemalloc.get_traced_memory()[1] < embedding.nbytes / 4
    finally:
        tracemalloc.stop()


def test_only_the_split_that_is_shown_is_embedded(config: BrowseConfig, gallery: Gallery) -> None:
    assert open_store(config.targets[1] / "embeddings.zarr").splits == ("val",)


def test_a_limit_shows_some_images_at_random(config: BrowseConfig, gallery: Gallery) -> None:
    shown = open_gallery(changed(config, limit=10))
    assert len(shown.rows) == 10
    assert (np.diff(shown.rows) > 0).all()
    assert not np.array_equal(shown.rows, np.arange(10))
    for index, row in enumerate(shown.rows):
        assert shown.name(index) == gallery.name(row)
        assert np.array_equal(shown.embeddings[0][index], gallery.embeddings[0][row])
        near = [one for one, _ in shown.neighbours(index)[0]]
        assert index not in near
        assert len(near) == 9


def test_a_split_that_is_not_there_is_a_sentence(config: BrowseConfig) -> None:
    with pytest.raises(WrongUse, match=r"has no split 'vall'; it has .*; did you mean 'val'"):
        open_gallery(changed(config, split="vall"))


def test_targets_of_one_name_are_told_apart(config: BrowseConfig, tmp_path: Path) -> None:
    dataset = open_dataset(config.dataset)
    other = write_store(tmp_path / "other.zarr", dataset, seed=3)
    sides = open_sides(changed(config, targets=(config.targets[0], other)), dataset)
    assert len({side.name for side in sides}) == 2
