"""A run folder's config.json: the run's settings, the identities of its inputs, and its provenance."""

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
# Settings that may differ when a run is resumed, since they change no weight.
FREE_SETTINGS = (
    *("workers", "eval_every", "save_every", "device", "inexact", "tracker"),
    *("dataset", "cache", "run", "teacher", "weights"),  # paths, whose contents have identities in made_of
)

# Settings that are None by default today, and what older run folders have in its place.
FORMER_DEFAULTS = {"anchors": "", "eval_every": 0, "head_dim": 0, "student_tau": 0, "tau": 0, "teacher": ""}


def open_run(
    run: Path,
    command: str,
    config: dict[str, Any],
    made_of: dict[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    *,
    replaceable: bool = False,
    gpu: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Create the run folder and its config.json, or check that the existing one is of the same run.

    made_of: identities of the run's inputs. defaults: values of settings that were added after the run was created.
    replaceable: the record of another run is overwritten, because nothing was trained from it.
    gpu: added to the provenance, see `gpu_record`.
    Raises PipelineError naming every difference.
    """
    path = run / "config.json"
    differences = record_differences(run, command, config, made_of, defaults) if path.exists() else []
    if differences and not replaceable:
        raise PipelineError(
            f"{run} holds another run ({'; '.join(differences)}): name a new folder, or repeat its settings"
        )
    if differences or not path.exists():
        record = {"format": FORMAT, "command": command, "config": config, "made_of": made_of}
        text = json.dumps({**record, "provenance": {**provenance(), **gpu}}, indent=1)
        write_file(path, (text + "\n").encode())


def record_differences(
    run: Path,
    command: str,
    config: dict[str, Any],
    made_of: dict[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """Return how the run recorded in a folder differs from the one described, as for `open_run`; [] if it is the same.

    Raises PipelineError for a damaged record.
    """
    found = read_config(run)
    found["config"] = {**defaults, **modernized(found["config"])}
    expected = {"format": FORMAT, "command": command, "config": config, "made_of": made_of}
    return identity_difference(fixed_part(expected), fixed_part(found))


def read_config(run: Path) -> dict[str, Any]:
    """Read a run folder's config.json. Raises PipelineError if it is missing, damaged or of another format."""
    try:
        found = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{run} is not a run folder: its config.json cannot be read ({error})") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise PipelineError(f"{run}/config.json has format {version!r}, expected {FORMAT}: name another run")
    parts = {"config": dict, "made_of": dict, "command": str}
    missing = [name for name, kind in parts.items() if not isinstance(found.get(name), kind)]
    if missing:
        raise PipelineError(f"{run}/config.json is damaged, it has no {', '.join(missing)}: name another run")
    return dict(found)


def modernized(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded settings with None in place of what stood for it in older run folders."""
    return {
        name: None if name in FORMER_DEFAULTS and value == FORMER_DEFAULTS[name] else value
        for name, value in config.items()
    }


def fixed_part(record: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a run's record that must not change when the run is resumed, as plain JSON values."""
    config = {name: value for name, value in record["config"].items() if name not in FREE_SETTINGS}
    # the cache's id covers its teacher
    made_of = {name: value for name, value in record["made_of"].items() if name != "teacher"}
    plain: dict[str, Any] = json.loads(json.dumps({**record, "config": config, "made_of": made_of}))
    return {name: plain[name] for name in ("format", "command", "config", "made_of")}
