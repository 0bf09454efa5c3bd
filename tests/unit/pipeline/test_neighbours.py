"""Neighbours and clusters by faiss: exact, ties by row, and what is refused."""

import os
import re
import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.neighbours import kmeans, knn, nearest_centroid, nearest_others
from pipeline.runtime.device import CPU
from pipeline.runtime.idle_gpu import warn_once
from pipeline.settings.field import MAX_SEED


def unit_rows(rows: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("queries", [3, 200])  # faiss has one algorithm for a few queries and one for many
def test_knn_is_the_sorted_inner_product(queries: int) -> None:
    train, query = unit_rows(500, 24, 0), unit_rows(queries, 24, 1)
    similarity, index = knn(train, query, 7)
    product = query.astype(np.float64) @ train.astype(np.float64).T
    expected = np.argsort(-product, axis=1)[:, :7]
    np.testing.assert_array_equal(index, expected)
    # 24 float32 products of unit vectors: a few units in the last place of 1.
    np.testing.assert_allclose(similarity, np.take_along_axis(product, expected, 1), atol=1e-6)
    assert (similarity.dtype, index.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("queries", [3, 200])
@pytest.mark.parametrize("k", [1, 2, 5, 20, 400])
def test_of_equal_rows_the_lowest_come_first_whatever_k_is(queries: int, k: int) -> None:
    distinct = unit_rows(100, 24, 0)
    train, query = np.tile(distinct, (4, 1)), unit_rows(queries, 24, 1)
    similarity, index = knn(train, query, k)
    best = np.argsort(-(query.astype(np.float64) @ distinct.astype(np.float64).T), axis=1)
    expected = (best[:, :, None] + 100 * np.arange(4)).reshape(queries, -1)[:, :k]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(index[:, 0], knn(train, query, 1)[1][:, 0])
    assert (np.diff(similarity, axis=1) <= 0).all()


@pytest.mark.parametrize("k", [1, 7, 50])
def test_of_rows_that_are_all_equal_the_first_k_are_returned(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.neighbours.SCORES_AT_ONCE", 120)  # two queries at once
    similarity, index = knn(np.ones((50, 8)), np.ones((25, 8)), k)
    assert (index == np.arange(k)).all()
    assert (similarity == 8).all()


def test_nearest_others_of_a_part_are_those_of_all() -> None:
    x = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    of_all = nearest_others(x, 4)
    assert not (of_all == np.arange(30)[:, None]).any()
    rows = np.array([7, 3, 29])
    assert np.array_equal(nearest_others(x, 4, part=rows), of_all[rows])
    assert np.array_equal(nearest_others(x, 4, part=slice(10, 20)), of_all[10:20])


def test_of_equal_centroids_the_lowest_is_the_nearest() -> None:
    centroids = np.repeat(unit_rows(5, 8, 0), 3, axis=0)
    x = unit_rows(300, 8, 1)
    assert set(nearest_centroid(x, centroids).tolist()) == {0, 3, 6, 9, 12}


def test_knn_takes_float16_and_strided_rows() -> None:
    train, query = unit_rows(100, 16, 0).astype(np.float16), unit_rows(10, 16, 1)
    expected = knn(train.astype(np.float32), query, 3)
    for given in (train, np.asfortranarray(train), np.repeat(train, 2, axis=0)[::2]):
        for found, wanted in zip(knn(given, query, 3), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_knn_uses_a_gpu_where_faiss_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def knn_gpu(resources, query, train, k, *, metric, device, **limits):  # type: ignore[no-untyped-def]
        calls.append((resources, device))
        return faiss.knn(query, train, k, metric=metric)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    train, query = unit_rows(50, 8, 0), unit_rows(5, 8, 1)
    on_cpu, on_gpu = knn(train, query, 3, CPU), knn(train, query, 3, torch.device("cuda", 1))
    assert calls == [("resources", 1)]
    np.testing.assert_array_equal(on_gpu[1], on_cpu[1])


def test_more_neighbours_than_faiss_finds_on_a_gpu_are_searched_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "knn_gpu", None, raising=False)
    x = unit_rows(2100, 4, 0)
    np.testing.assert_array_equal(knn(x, x[:3], 2048, torch.device("cuda"))[1], knn(x, x[:3], 2048)[1])


def test_kmeans_uses_the_gpu_of_its_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []

    def index_cpu_to_gpu(resources, device, index):  # type: ignore[no-untyped-def]
        moved.append((resources, device))
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 4)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", index_cpu_to_gpu, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(
        faiss, "knn_gpu", lambda _, *given, metric, **limits: faiss.knn(*given, metric=metric), raising=False
    )
    x = unit_rows(200, 8, 0)
    on_cpu, on_gpu = kmeans(x, 5), kmeans(x, 5, device=torch.device("cuda", 2))
    assert moved == [("resources", 2)]
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("gpu_build", "reason"),
    [
        (False, "faiss-cpu is installed; .* `pip install faiss-gpu==[0-9.]+`"),
        (True, "faiss-gpu finds no GPU .*"),
    ],
)
def test_cuda_where_faiss_has_no_gpu_searches_on_the_cpu_and_says_so_once(
    gpu_build: bool, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    if gpu_build:
        monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    train = unit_rows(50, 8, 0)
    for _ in range(2):
        np.testing.assert_array_equal(knn(train, train, 2, torch.device("cuda"))[1], knn(train, train, 2)[1])
    said = f"warning: nearest neighbours are searched on the CPU, because {reason}\n"
    assert re.fullmatch(said, capsys.readouterr().err)


def test_training_without_nearest_neighbours_needs_no_faiss() -> None:
    program = """import sys
sys.modules["faiss"] = None
import pipeline.training.distill, pipeline.training.pretrain
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused_by_number(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.neighbours.ROWS_PER_CHECK", 8)
    good, broken = unit_rows(30, 4, 0), unit_rows(30, 4, 0)
    broken[19, 2] = bad
    for search in (
        lambda: knn(broken, good, 1),
        lambda: knn(good, broken, 1),
        lambda: kmeans(broken, 2),
        lambda: nearest_centroid(broken, good),
    ):
        with pytest.raises(PipelineError, match="row 19 of"):
            search()


@pytest.mark.parametrize("k", [0, 11])
def test_k_above_the_number_of_rows_or_below_one_is_refused(k: int) -> None:
    rows = unit_rows(10, 4, 0)
    with pytest.raises(PipelineError, match=f"{k} neighbours among 10 rows"):
        knn(rows, rows, k)


def test_different_dims_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"have 5 dimensions .* have 4"):
        knn(unit_rows(10, 4, 0), unit_rows(3, 5, 0), 1)


def test_kmeans_finds_planted_clusters() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), 50)
    x = (10 * np.eye(3, 6)[truth] + 0.1 * rng.standard_normal((150, 6))).astype(np.float32)
    centroids, assignment = kmeans(x, 3, seed=0)
    # the partitions are equal: there are as many pairs of (cluster, truth) as clusters
    assert len(set(zip(assignment.tolist(), truth.tolist(), strict=True))) == 3
    for cluster in range(3):
        # float32 means of 50 values near 10
        np.testing.assert_allclose(centroids[cluster], x[assignment == cluster].mean(axis=0), atol=1e-5)


def test_kmeans_uses_every_row() -> None:
    # 600 equal rows and one far away: by default, faiss samples 256 rows per cluster
    x = np.zeros((601, 2), dtype=np.float32)
    x[600] = 600
    centroids, assignment = kmeans(x, 1, iterations=1)
    np.testing.assert_allclose(centroids, [[600 / 601, 600 / 601]], rtol=1e-5)  # float32 sum of 601 rows
    assert not assignment.any()


def test_kmeans_assigns_to_the_nearest_of_its_centroids_and_repeats_by_seed() -> None:
    x = unit_rows(400, 12, 0)
    centroids, assignment = kmeans(x, 7, seed=3)
    distances = np.square(x[:, None].astype(np.float64) - centroids[None]).sum(axis=2)
    np.testing.assert_array_equal(assignment, distances.argmin(axis=1))
    np.testing.assert_array_equal(nearest_centroid(x, centroids), assignment)
    again = kmeans(x, 7, seed=3)
    np.testing.assert_array_equal(again[0], centroids)
    np.testing.assert_array_equal(again[1], assignment)
    assert not np.array_equal(kmeans(x, 7, seed=4)[0], centroids)


def test_kmeans_takes_every_seed_that_a_command_takes() -> None:
    rows = unit_rows(60, 8, 0)
    for seed in (2**31, MAX_SEED):
        assert kmeans(rows, 4, seed=seed)[0].shape == (4, 8)


def test_kmeans_of_one_rank_has_the_cores_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    monkeypatch.setattr(faiss, "omp_set_num_threads", found.append)
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    kmeans(unit_rows(60, 8, 0), 4)
    assert found == [6, 1]


def test_kmeans_of_as_many_rows_as_clusters_keeps_each_row() -> None:
    x = unit_rows(9, 4, 0)
    assert sorted(kmeans(x, 9)[1].tolist()) == list(range(9))


@pytest.mark.parametrize("clusters", [0, 10])
def test_more_clusters_than_rows_are_refused(clusters: int) -> None:
    with pytest.raises(PipelineError, match=f"{clusters} clusters from 9 rows"):
        kmeans(unit_rows(9, 4, 0), clusters)


def test_kmeans_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    kmeans(unit_rows(20, 4, 0), 10)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("imports", ["import faiss, torch", "import torch, faiss"])
def test_faiss_and_torch_share_a_process(imports: str) -> None:
    # each brings its own OpenMP library; incompatible ones abort the process
    program = f"""{imports}
import numpy as np
from pipeline.neighbours import knn
x = np.eye(64, dtype=np.float32)
assert (knn(x, x, 1)[1][:, 0] == np.arange(64)).all()
assert float((torch.ones(300, 300) @ torch.ones(300, 300)).sum()) == 300**3
assert faiss.omp_get_max_threads() == 2, faiss.omp_get_max_threads()
"""
    environment = {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, check=True)
