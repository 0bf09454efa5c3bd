"""`report`: a self-contained HTML page, without scripts or network access and with all images embedded."""

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
from pipeline.report.furthest import all_furthest
from pipeline.report.gallery import clustering, neighbours
from pipeline.report.lineage import lineage
from pipeline.report.markdown import write_report
from pipeline.report.selection import (
    require_splits,
    student_stores,
    students_with_teachers,
    teacher_stores,
)
from pipeline.report.systems import System, load_systems
from pipeline.runtime.outputs import require_writable_file
from pipeline.runtime.provenance import commit
from pipeline.settings.commands import ReportConfig

TEMPLATES = Path(__file__).parent / "templates"
Maker = Callable[[str, Store, Dataset, int], Any]  # (name, store, dataset, seed) -> content for one system


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page: the content for its template, or a sentence that says why it is missing."""

    id: str
    title: str
    content: Any = None
    missing: str = ""


def report(config: ReportConfig) -> None:
    """Run the `report` command: write an HTML page, or a table into a Markdown file, by the suffix of `out`.

    Raises WrongUse for another suffix or a target that cannot be reported, PipelineError for damaged records.
    """
    if config.out.suffix == ".md":
        write_report(config.targets, config.out, config.name)
    elif config.out.suffix == ".html":
        require_writable_file(config.out)
        page = render(config)
        # file names may have bytes that are not text; these are shown as escapes
        write_file(config.out.resolve(), page.encode("utf-8", "backslashreplace"), resumes=False)
        print(f"wrote {config.out}, {len(page) / 1e6:.1f} MB; open it in a browser")
    else:
        raise WrongUse(
            f"{config.out}: name a page that ends in .html, or a Markdown file with results markers that ends in .md"
        )


def render(config: ReportConfig) -> str:
    """Return the page. Raises as `report`."""
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
        created=datetime.datetime.now(datetime.UTC),
        commit=commit(),
        paper=paper,
        titles=comparison.PAPER_TITLES,
    )


def sections(systems: Sequence[System], dataset: Dataset | None, seed: int) -> list[Section]:
    """Make all sections of the page, in order, with progress on the terminal."""
    with Console(stderr=True).status("tables and curves") as status:

        def each(make: Maker, *, with_teachers: bool = True) -> list[Any]:
            images, made = require_splits(dataset), []
            stores = teacher_stores(systems, images) if with_teachers else {}
            for name, store in (stores | student_stores(systems, images)).items():
                status.update(f"{make.__name__.replace('_', ' ')}: {name}")
                made.append(make(name, store, images, seed))
            return made

        def nearest() -> list[Any]:
            images = require_splits(dataset)
            stores = teacher_stores(systems, images) | student_stores(systems, images)
            return neighbours(stores, images, seed)

        def followed() -> list[Any]:
            images = require_splits(dataset)
            status.update("fidelity to the teacher")
            return all_furthest(students_with_teachers(systems, images), images, seed)

        return [
            section("results", "Results", lambda: comparison.results(systems)),
            section("beside", "Comparison with the paper", lambda: comparison.compare_with_paper(systems)),
            section("curves", "Training curves", lambda: curves.plots(systems)),
            section("ablations", "Ablations", lambda: ablations.plots(systems)),
            section("clusters", "Clusters", lambda: each(clustering, with_teachers=False)),
            section("neighbours", "Nearest neighbours", nearest),
            section("furthest", "Fidelity to the teacher", followed),
            section("map", "Embedding maps", lambda: each(embedding_map)),
            section("confusion", "Confusion matrices", lambda: each(confusion)),
            section("lineage", "Lineage", lambda: lineage(systems, dataset)),
            section("paper", "Appendix: results published in the paper", lambda: paper),
        ]


def section(id: str, title: str, make: Callable[[], Any]) -> Section:
    """Make a section; if its data is missing, it says why."""
    try:
        return Section(id=id, title=title, content=make())
    except (PipelineError, StoreError) as error:
        return Section(id=id, title=title, missing=str(error))
