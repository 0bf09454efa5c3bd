"""`cache verify` and `cache repair` on stores that a teacher wrote: damage is found, and repaired to the byte."""

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cli
from cache.columns import chunk_columns, encode, row_columns
from cache.errors import CorruptStore, IdentityMismatch, StoreError
from cache.layout import ChunkKey
from cache.reader import open_store
from pipeline.embedding import verify_repair
from pipeline.embedding.cache_teacher import cache_teacher
from pipeline.embedding.verify_repair import find_faults, repair_cache, verify_cache
from pipeline.errors import WrongUse
from pipeline.images.pack import pack
from pipeline.settings.cache_commands import CacheTeacherConfig, RepairConfig, VerifyConfig
from pipeline.settings.commands import PackConfig
from tests.support import tiny_store
from tests.support.squares import draw_squares

TEACHER = "tests.support.tiny_teacher:wide"  # 64 rows a chunk: three of train, one of val


@pytest.fixture(scope="module")
def whole(packed: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that was written without an interruption; no test changes it."""
    path = tmp_path_factory.mktemp("whole") / "cache.zarr"
    cache_teacher(
        CacheTeacherConfig(
            dataset=packed, cache=path, teacher=TEACHER, batch_size=16, scheduler=scheduler, device="cpu"
        )
    )
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(whole, tmp_path / "cache.zarr")
    return tmp_path / "cache.zarr"


def repair(path: Path, packed: Path, scheduler: str, rows: int = 0) -> None:
    repair_cache(RepairConfig(cache=path, dataset=packed, rows=rows, scheduler=scheduler, device="cpu"))


def swap(one: Path, other: Path) -> None:
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def edit_a_number(file: Path) -> None:
    file.write_text(re.sub(r"\d+", lambda found: str(int(found[0]) + 1), file.read_text(), count=1))


def without_ledger(path: Path) -> None:
    for name in ("train", "val"):
        shutil.rmtree(path / name / "checksum")
        shutil.rmtree(path / name / "row_checksum")


def test_a_sound_store_passes_and_its_rows_match_the_teacher(
    whole: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify_cache(VerifyConfig(cache=whole, dataset=packed, rows=50, device="cpu"))
    printed = capsys.readouterr().out
    # four chunks of five files, and labels, thumbs and ledger of four
    assert printed.startswith(f"{whole}: sound (32 chunk files, 6")
    assert printed.endswith("50 rows computed again)\n")


def test_verify_exits_with_1_and_names_what_is_at_fault(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path / "val/norm/c/0/0").write_bytes(b"short")
    assert cli.run_cli(["cache", "verify", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == "val/norm/c/0/0 (view 0, rows 0 to 39) has another size than it was written with\n"
    assert err.startswith(f"error: {path} has 1 fault; `python cli.py cache repair {path} --dataset DATASET`")
    assert cli.run_cli(["cache", "verify", str(path), "--rows", "3"]) == 2


def test_what_was_broken_is_repaired_to_the_byte_and_nothing_else_is_touched(
    path: Path, whole: Path, packed: Path, scheduler: str
) -> None:
    draw = random.Random(0)
    embedding = path / "train/embedding/c/0/1/0"
    data = bytearray(embedding.read_bytes())
    data[draw.randrange(len(data))] ^= 8
    embedding.write_bytes(data)
    (path / "train/label/c/2").unlink()
    (path / "train/thumb/c/0").write_bytes(b"")
    (path / "val/crop/c/0/0/0").unlink()
    (path / "train/norm/c/0/9").write_bytes(b"a chunk of nothing")
    kept = path / "train/embedding/c/0/0/0"
    before = kept.stat().st_mtime_ns
    repair(path, packed, scheduler)
    assert tiny_store.contents(path) == tiny_store.contents(whole)
    assert kept.stat().st_mtime_ns == before
    verify_cache(VerifyConfig(cache=path))


@pytest.mark.parametrize("name", ["train/zarr.json", "val/zarr.json", "train/embedding/zarr.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("{"), edit_a_number])
def test_what_describes_a_split_is_repaired_to_the_byte(
    path: Path, whole: Path, packed: Path, scheduler: str, name: str, damage: Callable[[Path], object]
) -> None:
    damage(path / name)
    with pytest.raises(StoreError, match="cache repair"):
        verify_cache(VerifyConfig(cache=path))
    repair(path, packed, scheduler)
    assert tiny_store.contents(path) == tiny_store.contents(whole)


def test_metadata_are_not_repaired_from_a_dataset_that_is_not_theirs(
    path: Path, packed: Path, scheduler: str, tmp_path: Path
) -> None:
    draw_squares(tmp_path / "others", seed=1)
    pack(PackConfig(data=tmp_path / "others", out=tmp_path / "dataset", workers=1))
    (path / "train/zarr.json").write_text("{")
    before = tiny_store.contents(path)
    with pytest.raises(IdentityMismatch, match="train cannot be restored from this dataset"):
        repair(path, tmp_path / "dataset", scheduler)
    assert tiny_store.contents(path) == before


def test_a_store_that_lost_its_zarr_json_gets_it_back_from_the_command_that_wrote_it(
    path: Path, whole: Path, packed: Path, scheduler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (path / "zarr.json").write_text("{")
    with pytest.raises(CorruptStore, match=r"delete .*/zarr.json and run the command that wrote"):
        verify_cache(VerifyConfig(cache=path))
    (path / "zarr.json").unlink()
    written = CacheTeacherConfig(
        dataset=packed, cache=path, teacher=TEACHER, batch_size=16, scheduler=scheduler, device="cpu"
    )
    with pytest.raises(StoreError, match="is lost or damaged"):
        cache_teacher(replace(written, batch_size=8))  # this would be another store
    cache_teacher(written)
    assert "train: 0 of 3 chunks to do" in capsys.readouterr().err
    assert tiny_store.contents(path) == tiny_store.contents(whole)


def test_two_swapped_chunks_are_repaired(path: Path, whole: Path, packed: Path, scheduler: str) -> None:
    swap(path / "train/embedding/c/0/0/0", path / "train/embedding/c/0/1/0")
    with pytest.raises(CorruptStore, match="has 2 faults; "):
        verify_cache(VerifyConfig(cache=path))
    repair(path, packed, scheduler)
    assert tiny_store.contents(path) == tiny_store.contents(whole)


def test_without_a_ledger_a_swap_is_found_and_repaired_by_its_meaning(
    path: Path, whole: Path, packed: Path, scheduler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    without_ledger(path)
    sound = tiny_store.contents(path)
    for name in ("embedding/c/0/0/0", "norm/c/0/0"):
        swap(path / "train" / name, path / "train" / name.replace("c/0/0", "c/0/1"))
    verify_cache(VerifyConfig(cache=path))
    assert "train, val: written before checksums were kept" in capsys.readouterr().out
    with pytest.raises(CorruptStore, match="has 2 faults; "):
        verify_cache(VerifyConfig(cache=path, dataset=packed, rows=100, device="cpu"))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert printed[0].startswith(
        "train/embedding/c/0/0/0 (view 0, rows 0 to 63) differs from the teacher's output in rows "
    )
    repair(path, packed, scheduler, rows=100)
    assert tiny_store.contents(path) == sound


def test_one_wrong_row_is_found_when_it_is_among_the_drawn(path: Path, packed: Path) -> None:
    without_ledger(path)
    split = open_store(path).split("train")
    wrong = split.gather([77])[0]
    column = chunk_columns(split.shape)[-1]
    rows = split.gather(range(64, 128))
    rows[13] = wrong[::-1]
    del split
    (path / "train/embedding/c/0/1/0").write_bytes(encode(column, rows))
    verify_cache(VerifyConfig(cache=path))
    config = VerifyConfig(cache=path, dataset=packed, rows=200, device="cpu")
    _, faults = find_faults(config)
    assert [fault.key for fault in faults] == [ChunkKey(0, 1)]
    assert "teacher's output in rows 77: cosine" in faults[0].reason


def test_labels_that_are_not_the_datasets_are_found_without_a_ledger(
    path: Path, whole: Path, packed: Path, scheduler: str
) -> None:
    without_ledger(path)
    sound = tiny_store.contents(path)
    split = open_store(path).split("train")
    labels = split.label[:64].copy()
    labels[[0, 63]] = labels[[63, 0]]
    (path / "train/label/c/0").write_bytes(encode(row_columns(split.shape)[0], labels))
    del split
    verify_cache(VerifyConfig(cache=path))
    _, faults = find_faults(VerifyConfig(cache=path, dataset=packed))
    assert [(fault.file, fault.key) for fault in faults] == [("label/c/0", ChunkKey(0, 0))]
    repair(path, packed, scheduler)
    assert tiny_store.contents(path) == sound


def test_nothing_is_deleted_when_it_cannot_be_computed_again(
    path: Path, pictures: Path, packed: Path, scheduler: str, tmp_path: Path
) -> None:
    (path / "train/norm/c/0/1").write_bytes(b"")
    broken = tiny_store.contents(path)
    other = tmp_path / "other"
    pack(PackConfig(data=pictures / "val", out=other, workers=1))
    with pytest.raises(IdentityMismatch, match=r"was not made from .*other"):
        repair(path, other, scheduler)
    config = RepairConfig(cache=path, dataset=packed, teacher="pixels", device="cpu")
    with pytest.raises(IdentityMismatch, match="is not the teacher of"):
        repair_cache(config)
    assert tiny_store.contents(path) == broken


def test_rows_need_their_images(whole: Path) -> None:
    with pytest.raises(WrongUse, match="give their --dataset too"):
        verify_cache(VerifyConfig(cache=whole, rows=3))


def test_of_more_rows_than_there_are_each_is_computed_once(whole: Path, packed: Path) -> None:
    seen: list[int] = []
    compare = verify_repair.compare_rows

    def counted(*given: Any) -> Any:
        seen.append(len(given[2]))
        return compare(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_repair, "compare_rows", counted)
        verify_cache(VerifyConfig(cache=whole, dataset=packed, rows=1000, device="cpu"))
    assert seen == [160, 40]
