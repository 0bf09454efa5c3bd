"""What is evaluated and reported: a run folder or a cache, by its path."""

from dataclasses import dataclass
from pathlib import Path

from cache.reader import open_store
from pipeline.errors import PipelineError
from pipeline.results.run_record import read_config


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is evaluated: a run folder, or a teacher's cache where `run` is None."""

    name: str
    role: str
    store: Path
    metrics: Path
    seed: int | None = None
    run: Path | None = None


def target_of(path: Path) -> Target:
    """Look at what a path holds, and name it for the table."""
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
    """A run by what made it: distilled, from scratch, or, after no epoch at all, untrained."""
    record = read_config(run)
    config = record["config"]
    if lacking := [name for name in ("student", "epochs", "seed") if name not in config]:
        raise PipelineError(
            f"the settings of the run {run} lack {', '.join(lacking)}: its config.json was edited, name another run"
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
