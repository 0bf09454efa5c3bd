"""The report as one HTML file that needs nothing else: no script, no network, every picture inside."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from cache.durable import write_file
from cache.errors import StoreError
from cache.reader import Store
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.report import ablations, comparison, curves, paper
from pipeline.report.confusion import confusion
from pipeline.report.embedding_map import embedding_map
from pipeline.report.gallery import Strip, clustering, strips
from pipeline.report.lineage import lineage
from pipeline.report.markdown import write_report
from pipeline.report.selection import students, teachers, whole
from pipeline.report.systems import System, load_systems
from pipeline.runtime.provenance import commit
from pipeline.settings.commands import ReportConfig

TEMPLATES = Path(__file__).parent / "templates"
Maker = Callable[[str, Store, Dataset, int], Any]  # of a system's name, its store, its images and a seed


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: what its template shows, or the one sentence that says why it is not there."""

    id: str
    title: str
    content: Any = None
    missing: str = ""


def report(config: ReportConfig) -> None:
    """Write the HTML page, or the table into a Markdown file, by the suffix of `out`.

    Raises WrongUse for another suffix or a target that is nothing to report on, PipelineError for records that
    cannot be read.
    """
    if config.out.suffix == ".md":
        write_report(config.targets, config.out, config.name)
    elif config.out.suffix == ".html":
        page = render(config)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        # A file name may hold bytes that are no text; they are shown by their number.
        write_file(config.out.resolve(), page.encode("utf-8", "backslashreplace"))
        print(f"{config.out} is written: {len(page) / 1e6:.1f} MB, open it in a browser")
    else:
        raise WrongUse(
            f"{config.out}: name a page that ends in .html, or a Markdown file with results markers that ends in .md"
        )


def render(config: ReportConfig) -> str:
    """The whole page. Raises as `report`."""
    dataset = open_dataset(config.dataset) if config.dataset else None
    systems = load_systems(config.targets)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        sections=sections(systems, dataset, config.seed),
        names=list(dict.fromkeys(system.name for system in systems)),
        dataset=dataset,
        written=datetime.datetime.now(datetime.UTC),
        commit=commit(),
        paper=paper,
        titles=comparison.PAPER_TITLES,
    )


def sections(systems: Sequence[System], dataset: Dataset | None, seed: int) -> list[Section]:
    """Every part of the page in order; on the terminal stands what is being made, since maps take their time."""
    with Console(stderr=True).status("tables and curves") as status:

        def each(make: Maker, *, taught: bool = True) -> list[Any]:
            """What `make` makes of the students, after the teachers where they are shown too."""
            images, made = whole(dataset), []
            stores = (teachers(systems, images) if taught else {}) | students(systems, images)
            for name, store in stores.items():
                status.update(f"{make.__name__.replace('_', ' ')}: {name}")
                made.append(make(name, store, images, seed))
            return made

        return [
            section("results", "Results", lambda: comparison.results(systems)),
            section("beside", "Beside the paper", lambda: comparison.beside_paper(systems)),
            section("curves", "Training", lambda: curves.plots(systems)),
            section("ablations", "Temperature and memory", lambda: ablations.plots(systems)),
            section("clusters", "Random images from random clusters", lambda: each(clustering, taught=False)),
            section("neighbours", "Nearest neighbours", lambda: neighbours(systems, dataset, seed)),
            section("map", "Map of the embeddings", lambda: each(embedding_map)),
            section("confusion", "Confusion", lambda: each(confusion)),
            section("lineage", "Lineage", lambda: lineage(systems, dataset)),
            section("paper", "Appendix: the paper's numbers", lambda: paper),
        ]


def neighbours(systems: Sequence[System], dataset: Dataset | None, seed: int) -> list[Strip]:
    """Strips of every teacher and student in pictures."""
    images = whole(dataset)
    return strips(teachers(systems, images) | students(systems, images), images, seed)


def section(id: str, title: str, make: Callable[[], Any]) -> Section:
    """A section, or the sentence that says why its data is not there."""
    try:
        return Section(id=id, title=title, content=make())
    except (PipelineError, StoreError) as error:
        return Section(id=id, title=title, missing=str(error))
