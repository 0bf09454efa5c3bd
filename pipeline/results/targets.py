"""What is evaluated and reported: run folders and caches."""

from dataclasses import dataclass
from pathlib import Path

from cache.reader import open_store
from pipeline.errors import PipelineError
from pipeline.results.run_record import read_config


@dataclass(frozen=True, kw_only=True)
class Target:
    """A run folder, or a cache if `run` is None. store: its embeddings; metrics: its metrics file."""

    name: str
    role: str
    store: Path
    metrics: Path
    seed: int | None = None
    run: Path | None = None


def target_of(path: Path) -> Target:
    """Identify the run or cache at a path. Raises PipelineError or StoreError if it is neither."""
    if (path / "config.json").exists():
        return run_target(path)
    store = open_store(path)
    pixels = store.teacher["architecture"].startswith("pixels")
    return Target(
        name="raw pixels" if pixels else f"teacher {store.teacher['architecture']}",
        role="pixels" if pixels else "teacher",
        store=path,
        metrics=path.with_suffix(".metrics.json"),
    )


def run_target(run: Path) -> Target:
    """Identify a run: distilled, trained from scratch, or untrained if it has no epochs."""
    record = read_config(run)
    config = record["config"]
    if missing := [name for name in ("student", "epochs", "seed") if name not in config]:
        raise PipelineError(
            f"the settings of the run {run} lack {', '.join(missing)}: its config.json was edited, name another run"
        )
    if config["epochs"] == 0:
        role = kind = "untrained"
    elif record["command"] == "pretrain":
        role, kind = "scratch", "from scratch (SimCLR)"
    else:
        role, kind = "student", config["objective"]
    return Target(
        name=f"{config['student']} {kind}",
        role=role,
        store=run / "embeddings.zarr",
        metrics=run / "metrics.json",
        seed=config["seed"],
        run=run,
    )
