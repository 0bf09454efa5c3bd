"""Anchorage's command line: options -> one frozen config -> one call. Imports of torch wait for their command."""

import dataclasses
import os
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cache.errors import StoreError
from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.runtime.signals import terminated_as_interrupted
from pipeline.settings import commands as configs
from pipeline.settings.field import checked, options
from pipeline.settings.many_students import configs_of
from pipeline.settings.toml_file import from_toml

INTERRUPTED = 130
# An interruption, with all that it holds: what a library had half made would complain when it is taken apart.
half_made: list[BaseException] = []


class Commands(click.Group):
    """Commands in the order of their use; a mistyped one gets the nearest name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise click.UsageError(f"no command {args[0]!r}{suggest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


class CommaList(click.ParamType):
    """Values separated by commas."""

    name = "A,B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return tuple(value.split(",")) if isinstance(value, str) else tuple(value)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Distil small self-supervised vision models from a big one, which runs once.

    \b
    python cli.py demo-data data/images          clip art as an image folder
    python cli.py pack data/images data/dataset  rows, identity and .beton files
    python cli.py cache-teacher data/dataset caches/demo.zarr --teacher demo
    python cli.py distill data/dataset caches/demo.zarr runs/r18 --student resnet18
    python cli.py eval caches/demo.zarr runs/r18 --dataset data/dataset

    A command that is run again goes on where it stopped.
    """


def command(
    name: str, config: type, group: click.Group = main
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command whose options are the fields of `config` and whose body gets one of them, or one a student."""

    def decorate(body: Callable[..., None]) -> click.Command:
        def run(**values: Any) -> None:
            body(*map(checked, configs_of(config, merged(config, values))))

        parameters = [parameter(config, field) for field in options(config)]
        parameters.append(
            click.Option(["--config"], type=Path, metavar="FILE.toml", help="settings from a file; flags win")
        )
        made = click.Command(name, callback=run, params=parameters, help=body.__doc__ or config.__doc__)
        group.add_command(made)
        return made

    return decorate


def merged(config: type, values: dict[str, Any]) -> dict[str, Any]:
    """Flags over the settings file over the defaults."""
    file = values.pop("config")
    given = {
        name: value
        for name, value in values.items()
        if click.get_current_context().get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    return {**values, **(from_toml(config, file) if file else {}), **given}


def parameter(config: type, field: dataclasses.Field[Any]) -> click.Parameter:
    """The click option or argument of one field."""
    hint = typing.get_type_hints(config)[field.name]
    if field.metadata.get("argument"):
        many, needed = typing.get_origin(hint) is tuple, field.default is dataclasses.MISSING
        return click.Argument([field.name], type=Path, nargs=-1 if many else 1, required=needed)
    flag = f"--{field.name.replace('_', '-')}"
    shared: dict[str, Any] = {"help": field.metadata["help"], "show_default": True}
    if field.default is dataclasses.MISSING:
        shared["required"] = True
    else:
        shared["default"] = field.default
    if field.metadata["several"]:
        return click.Option([flag], multiple=True, **{**shared, "default": (field.default,)})
    if hint is bool:
        return click.Option([flag], is_flag=True, **shared)
    return click.Option([flag], **shared, **kind(hint, field))


def kind(hint: Any, field: dataclasses.Field[Any]) -> dict[str, Any]:
    """The click type for a field's annotation."""
    if field.metadata["choices"]:
        return {"type": click.Choice(field.metadata["choices"])}
    if isinstance(hint, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if typing.get_origin(hint) is tuple:
        if typing.get_args(hint)[0] is float:
            return {"type": (float, float), "metavar": "LOW HIGH"}
        return {"type": CommaList()}
    return {"type": hint}


@command("demo-data", configs.DemoDataConfig)
def demo_data(config: configs.DemoDataConfig) -> None:
    """Clip art in the public domain, 2,100 drawings in 32 classes, as an image folder.

    From Debian's package openclipart-png, or the same file from Debian's server where it is not installed.
    """
    from pipeline.images.demo_data import demo_data

    demo_data(config.out, train=config.train or None, val=config.val or None)


@command("pack", configs.PackConfig)
def pack(config: configs.PackConfig) -> None:
    """Turn images into a dataset: ordered rows, an identity, one .beton a split.

    DATA is a folder with train/ and val/, a folder of class folders, a flat folder of images, or a folder of
    parquet files as Hugging Face writes them. An unreadable image keeps its row and is left out of training.
    """
    from pipeline.images.pack import pack

    pack(config)


@command("pretrain", configs.PretrainConfig)
def pretrain(*runs: configs.PretrainConfig) -> None:
    """Train a network from scratch by SimCLR, without labels and without a teacher."""
    from pipeline.training.pretrain import pretrain

    pretrain(*runs)


@command("cache-teacher", configs.CacheTeacherConfig)
def cache_teacher(config: configs.CacheTeacherConfig) -> None:
    """Stage one: run the teacher once over all images and keep its embeddings in CACHE, a Zarr store.

    Interrupted, it goes on with the chunks that are absent.
    """
    from pipeline.embedding.cache_teacher import cache_teacher

    cache_teacher(config)


@main.group("cache", cls=Commands)
def cache() -> None:
    """Look at a store, verify it, repair it."""


@cache.command("info")
@click.argument("store", type=Path)
def cache_info(store: Path) -> None:
    """What a store was made of, its size, and how much of it is there."""
    from pipeline.report.stores import print_store

    print_store(store)


@command("verify", configs.VerifyConfig, cache)
def cache_verify(config: configs.VerifyConfig) -> None:
    """Read every byte of a store and name the chunks that are not what was written.

    With --rows K and --dataset, K random rows are computed again by the teacher from their images; a cosine below
    0.999 is a fault. The exit code is 0 for a sound store and 1 for any fault.
    """
    from pipeline.embedding.verify_repair import verify_cache

    verify_cache(config)


@command("repair", configs.RepairConfig, cache)
def cache_repair(config: configs.RepairConfig) -> None:
    """Compute just the chunks anew that `cache verify` finds at fault, and verify again."""
    from pipeline.embedding.verify_repair import repair_cache

    repair_cache(config)


@command("distill", configs.DistillConfig)
def distill(*runs: configs.DistillConfig) -> None:
    """Stage two: train a student to have, for each image, its teacher's distribution over anchor points.

    Several students, each by a --student of its own, share one pass over the images; RUN then holds a run of each,
    with the very weights that it would have alone.
    """
    from pipeline.training.distill import distill

    distill(*runs)


@command("embed", configs.EmbedConfig)
def embed(config: configs.EmbedConfig) -> None:
    """Embed images with a run's student or with a teacher."""
    from pipeline.embedding.embed_command import embed_any

    embed_any(config)


@command("eval", configs.EvalConfig)
def evaluate(config: configs.EvalConfig) -> None:
    """Evaluate runs and caches side by side: nearest neighbours, linear probe, cluster alignment."""
    from pipeline.evaluate.run import evaluate_targets

    evaluate_targets(config)


@command("sweep", configs.SweepConfig)
def sweep(config: configs.SweepConfig) -> None:
    """Run a grid of trainings over one cache, and evaluate each.

    What is done is skipped, what was interrupted goes on, and a trial that fails does not stop the others. Start
    it several times, one a GPU, and the trials are shared.
    """
    from pipeline.sweeps.sweep import sweep

    sweep(config)


@command("report", configs.ReportConfig)
def report(config: configs.ReportConfig) -> None:
    """What runs and caches came to: one HTML page that holds its pictures, or a table in a Markdown file."""
    from pipeline.report.page import report

    report(config)


@command("export", configs.ExportConfig)
def export(config: configs.ExportConfig) -> None:
    """Write a run's student without its head, with a model card beside it.

    As .safetensors under torchvision's or timm's own names, or as .onnx for any batch size.
    """
    from pipeline.export.export import export_student

    export_student(config)


@command("plan", configs.PlanConfig)
def plan(config: configs.PlanConfig) -> None:
    """What both stages will take, before anything is spent: bytes, memory, hours, and when the cache has paid.

    Of a packed DATASET, or of --images that are not there yet. Times come from a short measurement on this
    machine, or from given rates: of a GPU that trains a ResNet-50 with --rate images a second, the rest follows by
    counting operations.
    """
    from pipeline.planning.table import report_plan

    report_plan(config)


@main.command("teachers")
@click.option("--check", type=Path, metavar="FILE", help="say which known layout a weights file has")
def teachers(check: Path | None) -> None:
    """The teachers that are known, with input, width, licence and where their weights come from."""
    from pipeline.report.registries import print_check, print_teachers

    print_check(check) if check else print_teachers()


@main.command("students")
def students() -> None:
    """The students that are known, with width and smallest input."""
    from pipeline.report.registries import print_students

    print_students()


@main.command("objectives")
def objectives() -> None:
    """What a student can be trained with."""
    from pipeline.report.registries import print_objectives

    print_objectives()


def run_cli(arguments: list[str] | None = None) -> int:
    """Run a command; what goes wrong ends in one sentence and an exit code: 1 a failure, 2 wrong use."""
    try:
        with terminated_as_interrupted():
            main(arguments, standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except WrongUse as error:
        return complain(error, 2)
    except (PipelineError, StoreError) as error:
        return complain(error, 1)
    except (KeyboardInterrupt, click.Abort) as stop:
        half_made.append(stop)
        click.echo("\ninterrupted; the same command goes on from here", err=True)
        return INTERRUPTED
    return 0


def complain(error: Exception, code: int) -> int:
    click.echo(f"error: {error}", err=True)
    return code


def end(code: int) -> None:
    """End the process. After an interruption at once: a library may have been within a lock that its end waits for."""
    if code != INTERRUPTED:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end(run_cli())
