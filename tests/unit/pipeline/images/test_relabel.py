"""`pack --relabel`: labels and names change; rows, pixels, caches and runs stay."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.errors import IdentityMismatch
from cache.reader import open_store
from cache.writer import create_split
from pipeline.embedding.missing_chunks import stored_identity
from pipeline.embedding.verify_repair import find_faults, restore_metadata
from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate.embedded_runs import checked_store, is_training_dataset
from pipeline.evaluate.features import load_features
from pipeline.images import pack as pack_module
from pipeline.images.beton_writer import check_beton
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.pack import pack
from pipeline.settings.cache_commands import RepairConfig, VerifyConfig
from pipeline.settings.commands import PackConfig
from pipeline.training.distill import distill, open_split
from tests.support.flawed_images import state_of
from tests.support.training_runs import settings


@pytest.fixture
def mended(packed: Path, pictures: Path, tmp_path: Path) -> PackConfig:
    """Settings of `pack` for a copy of `packed` whose images have been sorted anew, so that names and order differ."""
    shutil.copytree(packed, tmp_path / "dataset")
    images = shutil.copytree(pictures, tmp_path / "pictures")
    (images / "train/class-9").mkdir()
    for name in ("0", "7"):
        (images / f"train/class-0/{name}.png").rename(images / f"train/class-9/{name}.png")
    (images / "val/class-1/3.png").rename(images / "val/class-0/moved.png")
    return PackConfig(data=images, out=tmp_path / "dataset", workers=1, relabel=True)


def test_labels_and_names_are_those_of_the_files_and_nothing_else_changes(
    mended: PackConfig, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_dataset(packed)
    after = pack(mended)
    said = capsys.readouterr().out
    assert "train: 2 of 160 labels changed (2 from class-0 to class-9); 2 files renamed" in said
    assert "val: 1 of 40 labels changed (1 from class-1 to class-0); 1 file renamed" in said
    for name, old in before.splits.items():
        new = after.splits[name]
        assert [new.source.read(row) for row in range(new.rows)] == [
            old.source.read(row) for row in range(old.rows)
        ]
        assert [new.classes[label] for label in new.labels] == [each.split("/")[0] for each in new.names]
        assert np.array_equal(new.thumbs, old.thumbs)
        assert new.formerly == (old.identity,)
        check_beton(new.beton, new.labels)
    moved = before.splits["train"].names.index("class-0/7.png")
    assert after.splits["train"].names[moved] == "class-9/7.png"


def test_without_the_flag_labels_are_refused_with_the_flag_named_and_afterwards_they_are_known(
    mended: PackConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state_of(mended.out)
    with pytest.raises(WrongUse, match="only names or labels differ, give --relabel"):
        pack(replace(mended, relabel=False))
    assert state_of(mended.out) == before
    pack(mended)
    relabelled = state_of(mended.out)
    for relabel in (True, False):
        pack(replace(mended, relabel=relabel))
        assert "nothing was written" in capsys.readouterr().out
        assert state_of(mended.out) == relabelled
    (mended.out / "val.beton").unlink()
    written_again = pack(replace(mended, relabel=False))
    check_beton(written_again.splits["val"].beton, written_again.splits["val"].labels)
    assert written_again.splits["val"].formerly


def test_other_images_are_not_relabelled(mended: PackConfig) -> None:
    before = state_of(mended.out)
    (mended.data / "train/class-1/0.png").unlink()
    with pytest.raises(WrongUse, match=r"choose another folder$"):
        pack(mended)
    with pytest.raises(WrongUse, match=r"no dataset in .* to relabel"):
        pack(replace(mended, out=mended.out / "new"))
    assert state_of(mended.out) == before


@pytest.mark.parametrize("step", ["relabel_split", "write_description"])
def test_an_interrupted_one_opens_nowhere_with_wrong_labels_and_is_finished(
    mended: PackConfig, cached: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    whole = replace(mended, out=shutil.copytree(mended.out, mended.out.with_name("whole")))
    pack(whole)
    original = getattr(pack_module, step)
    calls = []

    def die(*arguments: object) -> None:
        calls.append(arguments)
        if step == "write_description" or len(calls) == 2:
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pack_module, step, die)
        with pytest.raises(KeyboardInterrupt):
            pack(mended)
    with pytest.raises(PipelineError, match="pack"):
        open_split(open_store(cached).split("train"), open_dataset(mended.out).splits["train"])
    pack(mended)
    assert {name: data for name, (_, data) in state_of(mended.out).items()} == {
        name: data for name, (_, data) in state_of(whole.out).items()
    }


@pytest.fixture
def relabelled(mended: PackConfig) -> Dataset:
    return pack(mended)


def test_a_cache_from_before_opens_with_the_new_labels(
    relabelled: Dataset, packed: Path, cached: Path
) -> None:
    train = relabelled.splits["train"]
    split = open_split(open_store(cached).split("train"), train)
    assert np.array_equal(split.label, train.labels)
    assert split.dataset == train.identity
    features = load_features(checked_store(open_store(cached), relabelled), "train")
    assert np.array_equal(features.label, train.labels)
    assert features.classes == 5
    assert np.array_equal(
        load_features(checked_store(open_store(cached), open_dataset(packed)), "train").label,
        open_dataset(packed).splits["train"].labels,
    )


def test_a_cache_from_before_is_continued_verified_and_repaired(
    relabelled: Dataset, cached: Path, tmp_path: Path
) -> None:
    cache = shutil.copytree(cached, tmp_path / "teacher.zarr")
    train = relabelled.splits["train"]
    identity = stored_identity(cache, train)
    assert identity == train.formerly[0]
    create_split(
        cache,
        "train",
        dataset=identity,
        rows=train.rows,
        views=1,
        dim=24,
        labels=train.labels,
        thumbs=train.thumbs,
    )
    assert find_faults(VerifyConfig(cache=cache, dataset=relabelled.path))[1] == []
    metadata = (cache / "train/norm/zarr.json").read_bytes()
    (cache / "train/norm/zarr.json").write_text("{}")
    restore_metadata(RepairConfig(cache=cache, dataset=relabelled.path))
    assert (cache / "train/norm/zarr.json").read_bytes() == metadata


def test_a_dataset_packed_anew_is_another_one(mended: PackConfig, cached: Path) -> None:
    new = pack(replace(mended, out=mended.out.with_name("new"), relabel=False))
    with pytest.raises(IdentityMismatch, match="was made from another dataset"):
        open_split(open_store(cached).split("train"), new.splits["train"])


def test_a_run_from_before_is_finished_and_of_the_training_dataset_unless_it_used_labels(
    mended: PackConfig, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = settings(mended.out, cached, tmp_path / "run", epochs=0)
    supervised = replace(run, run=tmp_path / "supervised", objective="supervised")
    distill(run)
    distill(supervised)
    dataset = pack(mended)
    capsys.readouterr()
    distill(run)
    assert "is finished" in capsys.readouterr().out
    assert is_training_dataset(run.run, dataset)
    with pytest.raises(PipelineError, match=r"holds another run \(made_of.dataset"):
        distill(supervised)


def test_another_column_of_labels_is_a_relabelling(tmp_path: Path, pictures: Path) -> None:
    files = sorted((pictures / "val").rglob("*.png"))
    image = [{"bytes": file.read_bytes(), "path": None} for file in files]
    fine, coarse = [row % 4 for row in range(len(files))], [row % 2 for row in range(len(files))]
    (tmp_path / "data").mkdir()
    table = pa.table({"image": image, "fine": fine, "coarse": coarse})
    pq.write_table(table, tmp_path / "data/train.parquet")
    config = PackConfig(data=tmp_path / "data", out=tmp_path / "out", workers=1, label_column="fine")
    assert pack(config).splits["train"].labels.tolist() == fine
    again = pack(replace(config, label_column="coarse", relabel=True)).splits["train"]
    assert again.labels.tolist() == coarse
    pq.write_table(table.take(list(reversed(range(len(files))))), tmp_path / "data/train.parquet")
    with pytest.raises(WrongUse, match="other images"):
        pack(replace(config, relabel=True))
