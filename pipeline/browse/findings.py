"""What takes time: clusters, maps by t-SNE, and how far each student fell from its teacher."""

import hashlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.rows import spread
from cache.user_folder import as_typed
from pipeline.browse.gallery import Gallery
from pipeline.browse.layout import kept_map, quick_map
from pipeline.evaluate.fidelity import MOST_ANCHORS, MOST_IMAGES, NEIGHBOURS, divergence, recall
from pipeline.neighbours import kmeans, nearest_others
from pipeline.report.gallery import UNLABELLED_CLUSTERS, most_frequent

MOST_CLUSTERS = 100
STARTS = 4  # of k-means, which may end with two clusters in one group of images and two groups in one cluster
EXAMPLES = 8  # images shown of a cluster
QUERIES_AT_ONCE = 500
FURTHEST = 200  # images listed
ROWS_AT_ONCE = 1_000

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster of `size` images; its most frequent class, "" for none, and that class's share of the labelled."""

    size: int
    name: str
    share: float
    examples: list[int]


@dataclass(frozen=True, kw_only=True)
class Furthest:
    """The images of `compared` on which a student fell furthest from its teacher, worst first.

    worst: (index, recall, divergence) of each, see `pipeline.evaluate.fidelity`. recall, divergence: means of all.
    """

    compared: int
    recall: float
    divergence: float
    worst: list[tuple[int, float, float]]


class Findings:
    """What is found about a gallery. The first map is there from the start; `work` adds the rest, in a thread or not.

    Attributes, None until they are found: maps, points (n, 2) of each side; clusters; cluster_of (n,), each image's
    cluster; furthest, of each side with a teacher. versions: how often each map was replaced. doing: what is being
    computed, "" when all is done.
    """

    def __init__(self, gallery: Gallery, seed: int) -> None:
        self.gallery, self.seed = gallery, seed
        sides = len(gallery.sides)
        self.maps: list[NDArray[np.float32] | None] = [quick_map(gallery.embeddings[0], seed)]
        self.maps += [None] * (sides - 1)
        self.versions = [1] + [0] * (sides - 1)
        self.clusters: list[Cluster] | None = None
        self.cluster_of: Rows | None = None
        self.furthest: list[Furthest | None] = [None] * sides
        self.doing = "starting"

    def start(self) -> None:
        """Work in a thread that ends with the process."""
        threading.Thread(target=self.work, name="findings", daemon=True).start()

    def work(self) -> None:
        """Find everything, what is seen first first. A step that fails is passed over, and the page lacks it.

        Whatever the error is: the page asks again for as long as something is being done.
        """
        sides = list(enumerate(self.gallery.sides))
        steps: list[tuple[str, Callable[[], None]]] = [("finding clusters", self.find_clusters)]
        drawn = [
            (f"drawing the map of {side.name}", partial(self.draw_map, number)) for number, side in sides
        ]
        compared = [
            (f"comparing {side.name} with its teacher", partial(self.compare, number))
            for number, side in sides
            if side.teacher is not None
        ]
        steps += [*drawn[:1], *compared, *drawn[1:]]
        try:
            for name, step in steps:
                self.doing = name
                try:
                    step()
                except Exception as error:
                    why = as_typed(str(error) or repr(error))
                    print(f"warning: {name} failed: {why}", file=sys.stderr)
        finally:
            self.doing = ""

    def state(self) -> dict[str, Any]:
        """Return what is there so far, as JSON values."""
        return {
            "doing": self.doing,
            "maps": list(self.versions),
            "clusters": self.clusters is not None,
            "furthest": [found is not None for found in self.furthest],
        }

    def find_clusters(self) -> None:
        """Cluster the first side's embeddings by k-means, the largest cluster first."""
        gallery, draws = self.gallery, np.random.default_rng(self.seed)
        wanted = len(gallery.images.classes) if gallery.has_labels else UNLABELLED_CLUSTERS
        k = min(wanted, MOST_CLUSTERS, max(len(gallery.rows) // 10, 1))
        found = best_clusters(gallery.embeddings[0], k, self.seed)
        sizes = np.bincount(found, minlength=k)
        order = np.argsort(-sizes, kind="stable")
        cluster_of = np.argsort(order)[found]
        clusters = []
        for number, size in enumerate(sizes[order][sizes[order] > 0].tolist()):
            members = np.flatnonzero(cluster_of == number)
            name, share = most_frequent(gallery.labels[members], gallery.images.classes)
            shown = np.sort(draws.permutation(members)[:EXAMPLES]).tolist()
            clusters.append(Cluster(size=size, name=name, share=share, examples=shown))
        self.cluster_of, self.clusters = cluster_of, clusters

    def draw_map(self, number: int) -> None:
        """Draw a side's map: by PCA if it has none yet, then by t-SNE."""
        embedding = self.gallery.embeddings[number]
        if self.maps[number] is None:
            self._show(number, quick_map(embedding, self.seed))
        store = self.gallery.sides[number].store
        images = store.split(self.gallery.images.name).dataset["images"]
        rows = hashlib.sha256(self.gallery.rows.tobytes()).hexdigest()
        self._show(number, kept_map(embedding, self.seed, f"{store.id} {images} {rows}"))

    def _show(self, number: int, points: NDArray[np.float32]) -> None:
        self.maps[number] = points
        self.versions[number] += 1

    def compare(self, number: int) -> None:
        """Compare a student with its teacher on at most 5,000 images, all of which are neighbours of each other."""
        gallery = self.gallery
        teacher = gallery.sides[number].teacher
        assert teacher is not None
        sides = [gallery.embeddings[number], gallery.embeddings[teacher]]
        queries = np.sort(np.random.default_rng(self.seed).permutation(len(gallery.rows))[:MOST_IMAGES])
        anchors = spread(np.arange(len(gallery.rows)), MOST_ANCHORS)
        near = [self._near(side, queries) for side in sides]
        shares = recall(*near)
        distances = divergence(*(part for side in sides for part in (side[queries], side[anchors])))
        # as in the report: the fewest of the teacher's neighbours, and of these the largest divergence
        order = np.lexsort((-distances, shares))[:FURTHEST]
        worst = zip(queries[order].tolist(), shares[order].tolist(), distances[order].tolist(), strict=True)
        self.furthest[number] = Furthest(
            compared=len(queries),
            recall=float(shares.mean()),
            divergence=float(distances.mean()),
            worst=list(worst),
        )

    def _near(self, embedding: NDArray[np.float32], queries: Rows) -> Rows:
        k = min(NEIGHBOURS, len(embedding) - 1)
        return np.concatenate(
            [
                nearest_others(embedding, k, part=queries[start : start + QUERIES_AT_ONCE])
                for start in range(0, len(queries), QUERIES_AT_ONCE)
            ]
        )


def best_clusters(embedding: NDArray[np.float32], k: int, seed: int) -> Rows:
    """Return the cluster of each embedding (n, D), (n,): of several starts of k-means, the tightest clusters."""
    best, least = np.zeros(len(embedding), np.int64), np.inf
    for start in range(STARTS):
        centroids, found = kmeans(embedding, k, iterations=20, seed=seed + start)
        scatter = scatter_about(embedding, centroids, found)
        if scatter < least:
            best, least = found, scatter
    return best


def scatter_about(embedding: NDArray[np.float32], centroids: NDArray[np.float32], found: Rows) -> float:
    """Return the sum of squared distances to the centroids (k, D) of these numbers (n,)."""
    total = 0.0
    # in parts, as all at once would take several times the memory of the embeddings
    for start in range(0, len(embedding), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        total += float(np.square(embedding[part] - centroids[found[part]]).sum(dtype=np.float64))
    return total
