"""`embed`: the embeddings of a dataset or an image folder, by a student or a teacher, as a store or an array file."""

import sys
from typing import Any

from pipeline.embedding.array_files import SUFFIXES, embed_images
from pipeline.embedding.cache_teacher import embed
from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.images.dataset_json import DESCRIPTION
from pipeline.images.source_notes import passed_over_notes
from pipeline.images.sources import open_sources
from pipeline.runtime.out_of_memory import explain_out_of_memory
from pipeline.settings.commands import EmbedConfig
from pipeline.teachers.backbone_spec import BackboneSpec


@explain_out_of_memory("--batch-size", "--image-size")
def embed_any(config: EmbedConfig) -> None:
    """Run the `embed` command.

    Raises WrongUse for conflicting flags, and for embedding an image folder into a store.
    """
    spec = _spec(config)
    is_dataset = (config.data / DESCRIPTION).exists()
    options: dict[str, Any] = {
        "device": config.device,
        "precision": config.amp_dtype,
        "batch_size": config.batch_size,
        "progress": True,
    }
    if config.out.suffix in SUFFIXES:
        if (config.out.parent / DESCRIPTION).exists():
            raise WrongUse(
                f"{config.out} is inside a dataset, whose own files have such names; choose another path"
            )
        dataset = open_dataset(config.data) if is_dataset else None
        sources = {name: split.source for name, split in dataset.splits.items()} if dataset else None
        sources = sources or open_sources(config.data)
        for note in passed_over_notes(sources):
            print(f"warning: {note}", file=sys.stderr)
        rows, without = embed_images(spec, sources, config.out, **options)
        print(f"{config.out}: {rows} rows, {without} of them without an embedding")
    elif is_dataset:
        report = embed(spec, open_dataset(config.data), config.out, workers=config.workers, **options)
        print(f"{config.out}: {report}")
    else:
        raise WrongUse(
            f"{config.data} is not a dataset, and only a dataset can be embedded into a store: give an OUT that ends "
            f"in {' or '.join(SUFFIXES)}, or run `python cli.py pack {config.data} DATASET` first"
        )


def _spec(config: EmbedConfig) -> BackboneSpec:
    if (config.run is None) == (config.teacher is None):
        raise WrongUse("give either --run RUN or --teacher NAME")
    if config.run is not None and config.weights is not None:
        raise WrongUse("--weights belongs to --teacher; a run has its own weights")
    return BackboneSpec(
        kind="teacher" if config.run is None else "run",
        name=config.teacher or "",
        weights=config.weights,
        image_size=config.image_size,
        run=config.run,
    )
