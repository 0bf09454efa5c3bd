"""A task computes and writes one chunk, and refuses weights or images that changed since the run started."""

from pathlib import Path

import pytest

from cache.layout import ChunkKey
from pipeline.embedding.tasks import Chunk, Job, chunk_count, embed_chunk
from pipeline.errors import PipelineError
from pipeline.images.dataset import Dataset
from pipeline.runtime.device import CPU
from pipeline.teachers.backbone_spec import BackboneSpec


def test_chunks_are_counted_over_all_splits() -> None:
    assert chunk_count([160, 5], dim=131072) == 3 + 1  # of 64 rows each


@pytest.mark.parametrize(
    ("weights", "images_hash", "message"),
    [("0" * 64, None, "weights of .* changed"), (None, "0" * 64, "the dataset .* changed")],
)
def test_what_changed_since_the_run_started_is_refused(
    dataset: Dataset, tmp_path: Path, weights: str | None, images_hash: str | None, message: str
) -> None:
    spec = BackboneSpec(kind="teacher", name="pixels", image_size=8).resolve()
    sha256 = weights or spec.load().weights_sha256
    store = tmp_path / "s.zarr"
    job = Job(spec=spec, weights_sha256=sha256, store=store, device="cpu", precision="fp32", batch_size=16)
    chunk = Chunk(
        dataset=dataset.path,
        data=dataset.data,
        split="val",
        images=images_hash or dataset.splits["val"].identity["images"],
        key=ChunkKey(0, 0),
        rows=range(5),
    )
    with pytest.raises(PipelineError, match=message):
        embed_chunk(job, job.settings(CPU, 1), chunk, lambda rows: None)
