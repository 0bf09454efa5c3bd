"""Anchorage's command line: options -> a frozen config -> one call. Each command imports torch only when it runs."""

import dataclasses
import os
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cache.errors import StoreError
from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.runtime.signals import terminated_as_interrupted
from pipeline.runtime.terminal import print_any_text
from pipeline.settings import commands, training
from pipeline.settings.field import options
from pipeline.settings.local_path import local_path
from pipeline.settings.many_students import configs_of
from pipeline.settings.toml_file import from_toml, without_none

INTERRUPTED = 130
RESUMED = ("pack", "pretrain", "cache-teacher", "repair", "distill", "eval", "sweep")


class Commands(click.Group):
    """A group that lists its commands in the order of use and suggests the nearest name for a mistyped one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise click.UsageError(f"no command {args[0]!r}{suggest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


class LocalPath(click.ParamType):
    """A path on this machine; ~ is the home folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return local_path(str(value))


class CommaList(click.ParamType):
    """Values separated by commas."""

    name = "A,B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return tuple(value.split(",")) if isinstance(value, str) else tuple(value)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Distil a large self-supervised vision model into small ones, running the large one only once.

    \b
    python cli.py demo-data data/images          clip art as an image folder
    python cli.py pack data/images data/dataset  rows, identity and .beton files
    python cli.py cache-teacher data/dataset caches/demo.zarr --teacher demo
    python cli.py distill data/dataset caches/demo.zarr runs/r18 --student resnet18
    python cli.py eval caches/demo.zarr runs/r18 --dataset data/dataset

    A stage that was interrupted resumes when it is run again.
    """


def command(
    name: str, config: type, group: click.Group = main
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command with the fields of `config` as its options; its body is called with one config per student."""

    def decorate(body: Callable[..., None]) -> click.Command:
        def run(**values: Any) -> None:
            body(*configs_of(config, merged(config, values)))

        file_help = "TOML file with settings; flags take precedence"
        file_option = click.Option(["--config"], type=LocalPath(), metavar="FILE.toml", help=file_help)
        parameters = [*(parameter(config, field) for field in options(config)), file_option]
        made = click.Command(name, callback=run, params=parameters, help=body.__doc__)
        group.add_command(made)
        return made

    return decorate


def merged(config: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of all options: flags take precedence over the settings file, and that over the defaults."""
    file = values.pop("config")
    given = {
        name: value
        for name, value in values.items()
        if click.get_current_context().get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    return {**values, **(from_toml(config, file) if file else {}), **given}


def parameter(config: type, field: dataclasses.Field[Any]) -> click.Parameter:
    """Return the click option or argument for a field."""
    hint, required = typing.get_type_hints(config)[field.name], field.default is dataclasses.MISSING
    if field.metadata.get("argument"):
        nargs = -1 if typing.get_origin(hint) is tuple else 1
        return click.Argument([field.name], type=LocalPath(), nargs=nargs, required=required)
    flag = f"--{field.name.replace('_', '-')}"
    shared: dict[str, Any] = {"help": field.metadata["help"], "show_default": True, "required": required}
    if not required:
        shared["default"] = field.default
    if field.metadata["repeatable"]:
        return click.Option([flag], multiple=True, **{**shared, "default": (field.default,)})
    if hint is bool:
        return click.Option([flag], is_flag=True, **shared)
    return click.Option([flag], **shared, **click_type(hint, field))


def click_type(hint: Any, field: dataclasses.Field[Any]) -> dict[str, Any]:
    """Return the click type for a field's annotation, with a metavar where it needs one."""
    if field.metadata["choices"]:
        return {"metavar": f"[{'|'.join(field.metadata['choices'])}]"}
    hint = without_none(hint)
    if typing.get_origin(hint) is not tuple:
        return {"type": LocalPath() if hint is Path else hint}
    is_range = typing.get_args(hint)[0] is float
    return {"type": (float, float), "metavar": "LOW HIGH"} if is_range else {"type": CommaList()}


@command("demo-data", commands.DemoDataConfig)
def demo_data(config: commands.DemoDataConfig) -> None:
    """Write the images of the demo, public-domain clip art.

    2,450 drawings in 16 classes, and 2,929 without a label to train on, come from Debian's package openclipart-png, or
    from the same file on Debian's server if that is not installed.
    """
    from pipeline.images.demo_data import demo_data
    from pipeline.runtime.outputs import require_writable_folder

    if not config.out.exists():
        require_writable_folder(config.out)
    demo_data(config.out, train=config.train, val=config.val)


@command("pack", commands.PackConfig)
def pack(config: commands.PackConfig) -> None:
    """Pack images into a dataset that both stages read.

    A dataset has ordered rows, an identity and one .beton file per split. DATA is a folder with train/ and val/, a
    folder of class folders, of images, or of parquet files as written by Hugging Face. An unreadable image keeps its
    row and is left out of training.
    """
    from pipeline.images.pack import pack

    pack(config)


@command("pretrain", training.PretrainConfig)
def pretrain(*runs: training.PretrainConfig) -> None:
    """Train a network with SimCLR, without labels or a teacher."""
    from pipeline.training.pretrain import pretrain

    pretrain(*runs)


@command("cache-teacher", commands.CacheTeacherConfig)
def cache_teacher(config: commands.CacheTeacherConfig) -> None:
    """Stage one: write a teacher's embeddings to a store.

    Runs the teacher once over all images of DATASET; CACHE is a Zarr store. After an interruption, only the missing
    chunks are computed.
    """
    from pipeline.embedding.cache_teacher import cache_teacher

    cache_teacher(config)


@main.group("cache", cls=Commands)
def cache() -> None:
    """Inspect, verify or repair a store."""


@cache.command("info")
@click.argument("store", type=LocalPath())
def cache_info(store: Path) -> None:
    """Show a store's teacher, dataset, size and completeness."""
    from pipeline.report.stores import print_store

    print_store(store)


@command("verify", commands.VerifyConfig, cache)
def cache_verify(config: commands.VerifyConfig) -> None:
    """Read every byte of a store and list damaged chunks.

    With --rows K and --dataset, the teacher also recomputes K random rows from their images; a cosine below 0.999
    is a fault. The exit code is 0 for a sound store and 1 for any fault.
    """
    from pipeline.embedding.verify_repair import verify_cache

    verify_cache(config)


@command("repair", commands.RepairConfig, cache)
def cache_repair(config: commands.RepairConfig) -> None:
    """Recompute the damaged chunks of a store, then verify it."""
    from pipeline.embedding.verify_repair import repair_cache

    repair_cache(config)


@command("distill", training.DistillConfig)
def distill(*runs: training.DistillConfig) -> None:
    """Stage two: train a student from the teacher's store.

    For each image, the student learns the teacher's distribution over anchor points, or another objective. Repeat
    --student to train several students in one pass over the images; RUN then holds one run per student, with exactly
    the weights it would have on its own.
    """
    from pipeline.training.distill import distill

    distill(*runs)


@command("embed", commands.EmbedConfig)
def embed(config: commands.EmbedConfig) -> None:
    """Embed images with a run's student or a teacher."""
    from pipeline.embedding.embed_command import embed_any

    embed_any(config)


@command("eval", commands.EvalConfig)
def evaluate(config: commands.EvalConfig) -> None:
    """Evaluate runs and caches, and compare them in a table.

    Embeddings that are missing are computed first.
    """
    from pipeline.evaluate.run import evaluate_targets

    evaluate_targets(config)


@command("sweep", commands.SweepConfig)
def sweep(config: commands.SweepConfig) -> None:
    """Train and evaluate a grid of runs over one cache.

    Finished trials are skipped, interrupted ones resume, and a failing trial does not stop the others. Start the
    command several times, once per GPU, to share the trials.
    """
    from pipeline.sweeps.sweep import sweep

    sweep(config)


@command("report", commands.ReportConfig)
def report(config: commands.ReportConfig) -> None:
    """Report results as an HTML page or a Markdown table.

    The page contains its images; the table is written between the markers of an existing file.
    """
    from pipeline.report.page import report

    report(config)


@command("export", commands.ExportConfig)
def export(config: commands.ExportConfig) -> None:
    """Export a student, without its head, with a model card.

    OUT is a .safetensors file with torchvision's or timm's own names, or an .onnx file for any batch size.
    """
    from pipeline.export.export import export_student

    export_student(config)


@command("plan", commands.PlanConfig)
def plan(config: commands.PlanConfig) -> None:
    """Estimate storage, memory and time before running.

    Covers both stages and when the cache pays off, for a packed DATASET or a number of --images. Times come from a
    short measurement on this machine, or from given rates: --rate is the speed at which a GPU trains a ResNet-50, and
    the rest follows from operation counts.
    """
    from pipeline.planning.table import report_plan

    report_plan(config)


@main.command("teachers")
@click.option(
    "--check",
    type=LocalPath(),
    metavar="FILE",
    help="weights file to identify: its layout and the teachers it fits",
)
def teachers(check: Path | None) -> None:
    """List the registered teachers, or identify a weights file.

    Shows each teacher's input, width, licence and where to get its weights.
    """
    from pipeline.report.registries import print_check, print_teachers

    print_check(check) if check else print_teachers()


@main.command("students")
def students() -> None:
    """List the named students with width and smallest input."""
    from pipeline.report.registries import print_students

    print_students()


@main.command("objectives")
def objectives() -> None:
    """List the training objectives and their defaults."""
    from pipeline.report.registries import print_objectives

    print_objectives()


def run_cli(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 success, 1 failure, 2 wrong use, 130 interrupted.

    An error is printed as one sentence. Without `arguments`, those of the process are used.
    """
    print_any_text()
    try:
        with terminated_as_interrupted():
            main(arguments, standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (PipelineError, StoreError) as error:
        click.echo(f"error: {error}", err=True)
        return 2 if isinstance(error, WrongUse) else 1
    except (KeyboardInterrupt, click.Abort):
        goes_on = resumes(sys.argv[1:] if arguments is None else arguments)
        click.echo(f"\ninterrupted{'; the same command goes on from here' if goes_on else ''}", err=True)
        if arguments is None:
            # Not sys.exit: destructors of objects that were being built would print errors, and a library's exit
            # handler may wait for a lock that the interrupted code had taken.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        return INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise
        click.echo(f"error: cannot use {os.fsdecode(error.filename)}: {error.strerror}", err=True)
        return 1
    return 0


def resumes(arguments: list[str]) -> bool:
    """Whether an interrupted command goes on when it is run again; one that writes a file at its end starts over."""
    name = "".join(arguments[1:2] if arguments[:1] == ["cache"] else arguments[:1])
    return name in RESUMED or (name == "embed" and any(Path(text).suffix == ".zarr" for text in arguments))


if __name__ == "__main__":
    sys.exit(run_cli())
