"""Folders of images and datasets that are refused."""

import pyarrow as pa

from tests.support.bad_cases import CACHE, DISTILL, EVAL, Case, of
from tests.support.bad_files import (
    dataset,
    edited,
    file,
    folder,
    holding,
    images,
    noise,
    nothing,
    overwritten,
    parquet,
    png,
    resized,
    together,
    without,
)

LISTS = {
    "image": images(),
    "label": pa.array([["a"], ["b"]]),
}

FOLDERS = of(
    "pack images out",
    missing=(nothing, "there is no folder images"),
    a_file=(file("images", "x"), "there is no folder images"),
    empty=(folder("images"), "there are no images"),
    only_text=(file("images/a.txt", "x"), "there are no images"),
    only_hidden=(png("images/.a.png"), "there are no images"),
    empty_class_folders=(together(folder("images/a"), folder("images/b")), "there are no images"),
    a_folder_named_like_an_image=(folder("images/a.png"), "there are no images"),
    empty_train=(together(folder("images/train/a"), png("images/val/a/b.png")), "there are no images"),
    empty_val=(together(png("images/train/a/b.png"), folder("images/val")), "there are no images"),
    both_vals=(png("images/val/a.png", "images/validation/a.png"), "keep one of them"),
    train_and_classes=(png("images/train/a.png", "images/dog/a.png"), "if train is a class"),
    parquet_of_no_split=(parquet("images/data.parquet", image=images()), "names no split"),
    parquet_parts_missing=(parquet("images/train-00000-of-00002.parquet", image=images()), "found 1"),
    no_parquet=(file("images/train.parquet", "x" * 100), "as parquet"),
    empty_parquet_file=(file("images/train.parquet"), "as parquet"),
    parquet_without_images=(parquet("images/train.parquet", photo=["a.png"]), "expected a column image"),
    parquet_of_words=(parquet("images/train.parquet", image=["a.png"]), "expected a column image"),
    parquet_of_text=(parquet("images/train.parquet", image=images(kind=pa.string())), "as binary"),
    parquet_without_rows=(parquet("images/train.parquet", image=images(0)), "no rows"),
    labels_of_lists=(parquet("images/train.parquet", **LISTS), "expected whole numbers"),
    label_below_none=(parquet("images/train.parquet", image=images(), label=[0, -7]), "a label is -7"),
    label_beyond_reason=(parquet("images/train.parquet", image=images(), label=[0, 10**12]), "classes.txt"),
    label_without_a_name=(
        together(
            parquet("images/train.parquet", image=images(), label=[0, 5]),
            file("images/classes.txt", "a\nb\n"),
        ),
        "names 2 classes",
    ),
    class_names_no_text=(
        together(parquet("images/train.parquet", image=images()), file("images/classes.txt", b"\xff\xfe\n")),
        "not text",
    ),
    out_a_file=(together(png("images/a.png"), file("out", "x")), "cannot make the folder out"),
    out_of_other_things=(together(png("images/a.png"), file("out/thesis.tex", "x")), "thesis.tex"),
    out_of_another_format=(
        together(png("images/a.png"), file("out/dataset.json", '{"format": 2}')),
        "expected format 1",
    ),
    out_described_by_half=(
        together(png("images/a.png"), file("out/dataset.json", '{"format": 1}')),
        "not as `pack` wrote it",
    ),
    out_described_by_noise=(
        together(png("images/a.png"), file("out/dataset.json", noise(50))),
        "cannot read",
    ),
)
PLACES: list[Case] = [
    ("pack: into itself", "pack images images", png("images/a.png"), "same folder"),
    ("pack: below a file", "pack images f/out", together(png("images/a.png"), file("f", "x")), "cannot make"),
]
OPENING = {
    "missing": (nothing, "there is no dataset"),
    "a_file": (file("dataset", "x"), "there is no dataset"),
    "an_empty_folder": (folder("dataset"), "is not a dataset"),
    "half_written": (file("dataset/.train.beton.7.tmp", "x"), "is half-written"),
    "only_a_beton": (file("dataset/train.beton", "x"), "is half-written"),
    "described_by_nothing": (dataset(holding("dataset.json", "")), "cannot read"),
    "described_by_noise": (dataset(holding("dataset.json", noise(99))), "cannot read"),
    "described_by_a_list": (dataset(edited("dataset.json", lambda d: [d])), "cannot read"),
    "of_format_2": (dataset(edited("dataset.json", lambda d: d.update(format=2))), "expected format 1"),
    "without_format": (dataset(edited("dataset.json", lambda d: d.pop("format") and None)), "cannot read"),
    "without_splits": (dataset(edited("dataset.json", lambda d: d.update(splits={}))), "not as `pack`"),
    "splits_a_list": (dataset(edited("dataset.json", lambda d: d.update(splits=["train"]))), "not as `pack`"),
    "a_split_of_nothing": (dataset(edited("dataset.json", lambda d: d["splits"].update(train={}))), "not as"),
    "rows_a_word": (dataset(edited("dataset.json", lambda d: d["splits"]["val"].update(rows="4"))), "not as"),
    "without_a_beton": (dataset(without("val.beton")), "is missing"),
    "without_a_table": (dataset(without("train.parquet")), "is missing"),
    "a_beton_cut_short": (dataset(resized("train.beton", -1)), "expected"),
    "a_beton_too_long": (dataset(resized("train.beton", 1)), "expected"),
    "an_empty_table": (dataset(holding("train.parquet", "")), "has 0 bytes"),
}
DATASETS = [
    *of(DISTILL.replace("{dataset}", "dataset"), **OPENING),
    *of(
        CACHE.replace("{dataset}", "dataset"),
        **{name: OPENING[name] for name in ("missing", "of_format_2", "a_beton_cut_short")},
    ),
    *of(
        EVAL.replace("{dataset}", "dataset"),
        **{name: OPENING[name] for name in ("missing", "described_by_noise", "without_a_table")},
    ),
    *of(
        "pretrain dataset r --student tests.golden.make:student --device cpu",
        missing=OPENING["missing"],
        without_train=(
            dataset(edited("dataset.json", lambda d: d["splits"].pop("train") and None)),
            "has no split 'train'",
        ),
    ),
]
TABLES = of(
    DISTILL.replace("{dataset}", "dataset"),
    a_beton_of_noise=(dataset(overwritten("train.beton", 0, noise(4096))), "train.beton"),
    row_numbers_of_noise=(dataset(overwritten("train.beton", 3170, noise(200))), "train.beton"),
    a_beton_of_zeros=(dataset(overwritten("train.beton", 0)), "train.beton"),
    pixels_of_zeros=(dataset(overwritten("train.beton", 4096)), "train.beton"),
    a_table_of_noise=(dataset(overwritten("train.parquet", 4, noise(400))), "train.parquet"),
    a_table_of_zeros=(dataset(overwritten("train.parquet", 0)), "train.parquet"),
    fewer_rows_told=(
        dataset(edited("dataset.json", lambda d: d["splits"]["train"].update(rows=7))),
        "is not the table of 7 rows",
    ),
    another_identity=(
        dataset(edited("dataset.json", lambda d: d["splits"]["train"]["identity"].update(images="0" * 64))),
        "made from another dataset: images",
    ),
)
ALL_BAD = together(file("images/a.png", "x"), file("images/b.jpg"))
UNREADABLE = of("pack images out", no_image_can_be_read=(ALL_BAD, "none of 2 images can be read"))
WRONG_FOLDERS = [*FOLDERS, *PLACES, *DATASETS]
FAILING_FOLDERS = [*TABLES, *UNREADABLE]
