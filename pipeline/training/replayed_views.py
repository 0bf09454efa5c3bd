"""`distill --replay`: which of a cache's random views a run shows, and the checks before it begins."""

from collections.abc import Sequence
from dataclasses import replace

from cache.metadata import read_split_attributes
from cache.reader import Split, Store
from pipeline.errors import WrongUse
from pipeline.loading.replay import Replay
from pipeline.objectives.objective import Objective
from pipeline.settings.field import defaults
from pipeline.settings.training import DistillConfig
from pipeline.training.recorded_run import recorded_setting


def with_replayed_views(configs: Sequence[DistillConfig], store: Store) -> tuple[DistillConfig, ...]:
    """Return settings with the number of views that --replay shows, and the range of their crops.

    Where no number is given, it is that of the first run begun, else all that the cache has. WrongUse for a
    cache without so many, and for settings that contradict --replay.
    """
    first = configs[0]
    if not first.replay:
        if first.replay_views:
            raise WrongUse("--replay-views belongs to --replay: give it too, or leave it out")
        return tuple(configs)
    if first.live_teacher:
        raise WrongUse("--replay and --live-teacher exclude each other: leave one out")
    if "train" not in store.splits:
        store.split("train")  # says which splits there are
    shape, _, crop_scale = read_split_attributes(store.path, "train")
    cached = shape.views - 1
    if not cached or not crop_scale:
        raise WrongUse(
            f"--replay: {store.path} has no random views; add some with `python cli.py cache-teacher {first.dataset} "
            f"{store.path} ... --views 4`"
        )
    if first.crop_scale not in (crop_scale, defaults(DistillConfig)["crop_scale"]):
        raise WrongUse(
            f"--crop-scale {first.crop_scale[0]} {first.crop_scale[1]}: the views of {store.path} have areas from "
            f"{crop_scale[0]} to {crop_scale[1]}; leave it out"
        )
    wanted = first.replay_views or recorded_setting(configs, "replay_views") or cached
    if wanted > cached:
        raise WrongUse(
            f"--replay-views {wanted}: {store.path} has {cached} random views of each image; add more with "
            f"cache-teacher --views {wanted}"
        )
    return tuple(replace(each, replay_views=wanted, crop_scale=crop_scale) for each in configs)


def views_of(config: DistillConfig) -> int:
    """Return how many of a cache's views a run needs: the centre crop's, and those that it replays."""
    return 1 + (config.replay_views or 0)


def open_replay(config: DistillConfig, split: Split, objective: Objective) -> Replay | None:
    """Return the views that --replay shows, or None without it.

    WrongUse for an objective without a teacher, or of several crops.
    """
    if not config.replay_views:
        return None
    if not objective.needs_teacher:
        raise WrongUse(f"--replay: the objective {config.objective} needs no teacher; leave it out")
    if objective.views > 1:
        raise WrongUse(
            f"--replay: the objective {config.objective} is given {objective.views} crops of each image, and a "
            "replayed view is one; leave it out"
        )
    return Replay(split, config.replay_views)
