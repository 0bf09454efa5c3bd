"""A gallery of a planted cache and an untrained student, and a server of it; see `report_targets`."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.browse.findings import Findings
from pipeline.browse.gallery import Gallery
from pipeline.browse.own_image import OwnImages
from pipeline.browse.server import BrowseServer
from pipeline.models.student_file import save_student
from pipeline.models.students import build_student
from pipeline.settings.browse import BrowseConfig
from tests.support.report_targets import dataset_of, write_run, write_store

STUDENT = "tests.support.tiny_student:plain"
CLASSES = ("bird", "cat", "dog", "ship")


def browsed(root: Path) -> BrowseConfig:
    """Write a dataset of 48 validation images, a cache and a run of it; return the settings that show them."""
    dataset = dataset_of(root, CLASSES, train=4, val=12)
    cache = write_store(root / "cache.zarr", dataset, name="planted teacher")
    run = write_run(root / "run", dataset, cache, student=STUDENT, store=False)
    save_student(run, build_student(STUDENT, image_size=24, seed=0), {"step": "2", "steps": "2"})
    return BrowseConfig(targets=(cache, run), dataset=dataset.path, port=0, no_open=True, workers=1)


@contextmanager
def served(gallery: Gallery, *, works: bool = True) -> Iterator[BrowseServer]:
    """Serve a gallery, with everything found, on a free port."""
    findings = Findings(gallery, seed=0)
    if works:
        findings.work()
    with BrowseServer(0, findings, OwnImages(gallery)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
