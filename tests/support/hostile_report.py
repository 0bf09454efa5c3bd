"""Targets of a report whose names hold markup that a page must not trust."""

from pathlib import Path

from pipeline.settings.commands import ReportConfig
from tests.support.report_targets import EVIL, dataset_of, write_metrics, write_run, write_store


def hostile_report(root: Path) -> ReportConfig:
    """Write four runs of two temperatures and two seeds, another run, and their cache; return the report's settings."""
    dataset = dataset_of(root, EVIL)
    cache = write_store(
        root / "cache.zarr", dataset, name="moco_v2_resnet50", file='"><script>alert(2)</script>'
    )
    write_metrics(root / "cache.metrics.json", "teacher planted", {"nn1": 0.9}, seed=None, role="teacher")
    runs = [
        write_run(root / f"run'\"<i>\n{tau} {seed}", dataset, cache, nn1=nn1, tau=tau, seed=seed)
        for tau, seed, nn1 in [(0.04, 0, 0.5), (0.04, 1, 0.6), (0.1, 0, 0.3), (0.1, 1, 0.2)]
    ]
    other = write_run(
        root / "other", dataset, cache, student='"></title><img src=x onerror=alert(3)>', objective="2q"
    )
    everything = (cache, other, *runs)
    return ReportConfig(targets=everything, out=root / "out" / "report.html", dataset=dataset.path)
