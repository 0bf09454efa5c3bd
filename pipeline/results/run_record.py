"""A run folder's config.json: settings, identities of what the run reads, and provenance."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cache.durable import write_file
from cache.identity import identity_difference
from pipeline.errors import PipelineError
from pipeline.runtime.provenance import provenance

FORMAT = 1


# Settings that change neither weights nor their order, so that a run may go on with other values.
FREE_SETTINGS = (
    *("workers", "eval_every", "save_every", "device", "inexact"),
    *("dataset", "cache", "run", "teacher", "weights"),  # places: what is there is known by its identity
)


def open_run(
    run: Path,
    command: str,
    config: dict[str, Any],
    made_of: dict[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Create the run folder with its whole config, or check that the one there is of the same run.

    made_of: identities of what the run reads. defaults: what a setting counts as that is younger than the run.
    Raises PipelineError naming every difference.
    """
    wanted = {"format": FORMAT, "command": command, "config": config, "made_of": made_of}
    path = run / "config.json"
    if not path.exists():
        text = json.dumps({**wanted, "provenance": provenance()}, indent=1)
        write_file(path, (text + "\n").encode())
        return
    found = read_config(run)
    found["config"] = {**defaults, **found["config"]}
    differences = identity_difference(fixed(wanted), fixed(found))
    if differences:
        raise PipelineError(
            f"{run} holds another run ({'; '.join(differences)}): name a new folder, or repeat its settings"
        )


def read_config(run: Path) -> dict[str, Any]:
    """A run folder's config.json. PipelineError if there is none, or it is not a run's of this format."""
    try:
        found = json.loads((run / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise PipelineError(f"{run} is not a run folder: its config.json cannot be read ({error})") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise PipelineError(f"{run}/config.json has format {version!r}, expected {FORMAT}: name another run")
    parts = {name: found.get(name) for name in ("config", "made_of")}
    lacking = [name for name, part in parts.items() if not isinstance(part, dict)]
    if lacking or not isinstance(found.get("command"), str):
        raise PipelineError(
            f"{run}/config.json is not as a run wrote it (no {', '.join(lacking) or 'command'}): name another run"
        )
    return dict(found)


def fixed(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's record that must not change when it goes on, as JSON gives it back."""
    config = {name: value for name, value in record["config"].items() if name not in FREE_SETTINGS}
    made_of = {
        name: value for name, value in record["made_of"].items() if name != "teacher"
    }  # the cache's id tells it
    plain: dict[str, Any] = json.loads(json.dumps({**record, "config": config, "made_of": made_of}))
    return {name: plain[name] for name in ("format", "command", "config", "made_of")}
