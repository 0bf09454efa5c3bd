"""Anchorage's command line: options -> a frozen config -> one call. Each command imports torch only when it runs."""

import sys

import click

from pipeline.remote.commands import command
from pipeline.report.lists import objectives, students, teachers
from pipeline.runtime.completion import completion
from pipeline.runtime.run_command import run_command
from pipeline.settings import cache_commands, commands, training
from pipeline.settings.browse import BrowseConfig
from pipeline.settings.command_line import Commands
from pipeline.settings.plan import PlanConfig


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


@command(main, "demo-data", commands.DemoDataConfig)
def demo_data(config: commands.DemoDataConfig) -> None:
    """Write the images of the demo, clip art from Debian."""
    from pipeline.images.demo_data import demo_data

    demo_data(config.out, train=config.train, val=config.val)


@command(main, "pack", commands.PackConfig)
def pack(config: commands.PackConfig) -> None:
    """Pack images into a dataset that both stages read.

    A dataset has ordered rows, an identity and one .beton file per split. An unreadable image keeps its row and is left
    out of training.
    """
    from pipeline.images.pack import pack

    pack(config)


@command(main, "pretrain", training.PretrainConfig)
def pretrain(*runs: training.PretrainConfig) -> None:
    """Train a network with SimCLR, without labels or a teacher."""
    from pipeline.training.pretrain import pretrain

    pretrain(*runs)


@command(main, "cache-teacher", cache_commands.CacheTeacherConfig)
def cache_teacher(config: cache_commands.CacheTeacherConfig) -> None:
    """Stage one: write a teacher's embeddings to a store.

    Runs the teacher once over all images of DATASET; CACHE is a Zarr store. After an interruption, only the missing
    chunks are computed.
    """
    from pipeline.embedding.cache_teacher import cache_teacher

    cache_teacher(config)


@main.group("cache", cls=Commands)
def cache() -> None:
    """Inspect, verify, repair, compare and convert caches."""


@command(cache, "info", cache_commands.InfoConfig)
def cache_info(config: cache_commands.InfoConfig) -> None:
    """Show a store's teacher, dataset, size and completeness."""
    from pipeline.report.stores import print_store

    print_store(config)


@command(cache, "verify", cache_commands.VerifyConfig)
def cache_verify(config: cache_commands.VerifyConfig) -> None:
    """Read every byte of a store and list damaged chunks.

    With --rows K and --dataset, the teacher also recomputes K random rows from their images; a cosine below 0.999
    is a fault. The exit code is 0 for a sound store and 1 for any fault.
    """
    from pipeline.embedding.verify_repair import verify_cache

    verify_cache(config)


@command(cache, "repair", cache_commands.RepairConfig)
def cache_repair(config: cache_commands.RepairConfig) -> None:
    """Recompute the damaged chunks of a store, then verify it."""
    from pipeline.embedding.verify_repair import repair_cache

    repair_cache(config)


@command(cache, "compare", cache_commands.CompareConfig)
def cache_compare(config: cache_commands.CompareConfig) -> None:
    """Compare caches of the same images, to choose a teacher."""
    from pipeline.report.cache_comparison import compare_caches

    compare_caches(config)


@command(cache, "convert", cache_commands.ConvertConfig)
def cache_convert(config: cache_commands.ConvertConfig) -> None:
    """Write a cache in another form: smaller, or an archive."""
    from pipeline.embedding.convert import convert_cache

    convert_cache(config)


@command(cache, "combine", cache_commands.CombineConfig)
def cache_combine(config: cache_commands.CombineConfig) -> None:
    """Make one cache of several teachers' caches."""
    from pipeline.embedding.combine import combine_caches

    combine_caches(config)


@command(cache, "neighbours", cache_commands.NeighboursConfig)
def cache_neighbours(config: cache_commands.NeighboursConfig) -> None:
    """Find each training image's neighbours, as anchors for distill."""
    from pipeline.embedding.neighbour_graph import cache_neighbours

    cache_neighbours(config)


@command(main, "distill", training.DistillConfig)
def distill(*runs: training.DistillConfig) -> None:
    """Stage two: train a student from the teacher's store.

    For each image, the student learns the teacher's distribution over anchor points, or another objective. Repeat
    --student to train several students in one pass over the images; RUN then holds one run per student, with exactly
    the weights it would have on its own.
    """
    from pipeline.training.distill import distill

    distill(*runs)


@command(main, "embed", commands.EmbedConfig)
def embed(config: commands.EmbedConfig) -> None:
    """Embed images with a run's student or a teacher."""
    from pipeline.embedding.embed_command import embed_any

    embed_any(config)


@command(main, "eval", commands.EvalConfig)
def evaluate(config: commands.EvalConfig) -> None:
    """Evaluate runs and caches, and compare them in a table."""
    from pipeline.evaluate.run import evaluate_targets

    evaluate_targets(config)


@command(main, "sweep", commands.SweepConfig)
def sweep(config: commands.SweepConfig) -> None:
    """Train and evaluate a grid of runs over one cache.

    Finished trials are skipped, interrupted ones resume, and a failing trial does not stop the others. Start the
    command several times, once per GPU, to share the trials.
    """
    from pipeline.sweeps.sweep import sweep

    sweep(config)


@command(main, "report", commands.ReportConfig)
def report(config: commands.ReportConfig) -> None:
    """Report results as an HTML page or a Markdown table."""
    from pipeline.report.page import report

    report(config)


@command(main, "browse", BrowseConfig)
def browse(config: BrowseConfig) -> None:
    """Look at images and their neighbours in the browser.

    Serves one page on this machine: a map of the images of a split, the neighbours that a teacher and its students
    find for each of them or for an image of your own, clusters, and the images on which a student fell furthest from
    its teacher. A run's missing embeddings are computed first, as by eval.

    \b
    python cli.py browse caches/demo.zarr runs/r18 --dataset data/dataset
    """
    from pipeline.browse.browse import browse

    browse(config)


@command(main, "export", commands.ExportConfig)
def export(config: commands.ExportConfig) -> None:
    """Export a student, without its head, with a model card."""
    from pipeline.export.export import export_student

    export_student(config)


@command(main, "plan", PlanConfig)
def plan(config: PlanConfig) -> None:
    """Estimate storage, memory and time before running.

    Covers both stages and when the cache pays off, for a packed DATASET or a number of --images. Times come from a
    short measurement on this machine, or from given rates: --rate is the speed at which a GPU trains a ResNet-50, and
    the rest follows from operation counts.
    """
    from pipeline.planning.table import report_plan

    report_plan(config)


for listed in (teachers, students, objectives, completion):
    main.add_command(listed)


def run_cli(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code. Without `arguments`, those of the process are used."""
    return run_command(main, arguments)


if __name__ == "__main__":
    sys.exit(run_cli())
