"""Stores that are damaged, edited, or of another format."""

from tests.support.bad_cases import DISTILL, of
from tests.support.bad_files import (
    edited,
    file,
    folder,
    holding,
    metadata,
    noise,
    nothing,
    overwritten,
    resized,
    store,
    swapped,
    without,
)

VAL = "val/embedding/c/0/0/0"
STORE_FAULTS = {
    "missing": (nothing, "does not exist; check the path"),
    "a_file": (file("store.zarr", "x"), "is not part of a store"),
    "an_empty_folder": (folder("store.zarr"), "is not part of a store"),
    "another_zarr": (file("store.zarr/zarr.json", '{"zarr_format": 3, "node_type": "group"}'), "is not part"),
    "an_older_zarr": (file("store.zarr/.zgroup", '{"zarr_format": 2}'), "is not part"),
    "described_by_nothing": (store(holding("zarr.json", "")), "is lost or damaged; delete"),
    "described_by_noise": (store(holding("zarr.json", noise(99))), "is lost or damaged; delete"),
    "described_by_a_list": (store(edited("zarr.json", lambda d: [d])), "is lost or damaged; delete"),
    "attributes_a_word": (
        store(edited("zarr.json", lambda d: d.update(attributes={"anchorage": 1}))),
        "is lost or damaged; delete",
    ),
    "of_format_2": (store(metadata("zarr.json", format=2)), "format 2"),
    "of_no_format": (store(metadata("zarr.json", format=None)), "format None"),
    "of_format_in_words": (store(metadata("zarr.json", format="1")), "format 1"),
    "without_teacher": (store(metadata("zarr.json", teacher=None)), "were edited"),
    "another_teacher": (store(metadata("zarr.json", teacher={"architecture": "x"})), "were edited"),
    "another_id": (store(metadata("zarr.json", id="0" * 64)), "were edited"),
    "without_id": (store(metadata("zarr.json", id=None)), "were edited"),
    "a_split_of_noise": (
        store(holding("train/zarr.json", noise(99))),
        "is damaged; restore it with `python cli.py cache repair",
    ),
    "a_split_without_rows": (store(metadata("train/zarr.json", rows=None)), "above 0"),
    "a_split_of_no_rows": (store(metadata("train/zarr.json", rows=0)), "above 0"),
    "a_split_of_minus_rows": (store(metadata("train/zarr.json", rows=-8)), "above 0"),
    "rows_a_word": (store(metadata("train/zarr.json", rows="8")), "above 0"),
    "more_rows": (store(metadata("train/zarr.json", rows=9)), "not laid out"),
    "more_views": (store(metadata("train/zarr.json", views=2)), "not laid out"),
    "another_width": (store(metadata("train/zarr.json", dim=25)), "not laid out"),
    "without_dataset": (store(metadata("train/zarr.json", dataset=None)), "lack a dataset"),
    "without_an_array": (store(without("train/norm")), "not laid out"),
    "an_array_of_noise": (store(holding("train/norm/zarr.json", noise(99))), "not laid out"),
    "another_dtype": (
        store(edited("train/embedding/zarr.json", lambda d: d.update(data_type="float32"))),
        "not laid out",
    ),
    "other_codecs": (
        store(edited("train/status/zarr.json", lambda d: d.update(codecs=d["codecs"][:1]))),
        "not laid out",
    ),
    "an_unknown_codec": (
        store(edited("train/status/zarr.json", lambda d: d.update(codecs=[{"name": "magic"}]))),
        "not laid out",
    ),
    "a_chunk_cut_short": (store(resized("train/embedding/c/0/0/0", -1)), "cut short or changed"),
    "a_chunk_too_long": (store(resized("train/status/c/0/0", 1)), "cut short or changed"),
    "a_chunk_without_norms": (store(without("train/norm/c/0/0")), "is missing"),
    "without_labels": (store(without("train/label/c/0")), "is missing"),
}
STORES = [
    *of("cache info store.zarr", **STORE_FAULTS),
    *of(
        DISTILL.replace("{cache}", "store.zarr"),
        missing=STORE_FAULTS["missing"],
        of_format_2=STORE_FAULTS["of_format_2"],
        a_chunk_cut_short=STORE_FAULTS["a_chunk_cut_short"],
        another_teacher=STORE_FAULTS["another_teacher"],
        without_train=(store(without("train")), "has no split 'train'"),
        without_embeddings=(store(without("train/embedding/c")), "0 of 1 chunks"),
        a_flipped_bit=(store(overwritten("train/embedding/c/0/0/0", 77, b"\x99")), "have changed"),
        chunks_of_zeros=(store(overwritten("train/embedding/c/0/0/0", 0)), "have changed"),
        splits_swapped=(store(swapped("train", "val")), "another dataset"),
    ),
    *of(
        "eval store.zarr --dataset {dataset} --protocol nn --device cpu",
        missing=STORE_FAULTS["missing"],
        without_val=(store(without("val")), "has no split 'val'"),
        a_flipped_bit=(store(overwritten(VAL, 5, b"\x99")), "have changed"),
    ),
    *of(
        "cache verify store.zarr",
        missing=STORE_FAULTS["missing"],
        a_flipped_bit=(store(overwritten(VAL, 5, b"\x99")), "store.zarr"),
        a_chunk_cut_short=(*STORE_FAULTS["a_chunk_cut_short"][:1], "store.zarr"),
    ),
]
