"""A short corruption run: `cache verify` names random damage exactly, and `cache repair` restores every byte."""

import random
from collections import Counter
from pathlib import Path

import pytest

from cache import audit
from tests.torture.corruptions import Tried
from tests.torture.damages import OF_CHUNKS, draw_round, metadata

pytestmark = pytest.mark.long

ROUNDS = 8


@pytest.fixture(scope="module")
def tried(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return Tried(tmp_path_factory.mktemp("corruptions"), scheduler)


def test_random_corruptions_are_named_one_by_one_and_repaired_to_the_byte(tried: Tried) -> None:
    for number in range(ROUNDS):
        drawn = draw_round(random.Random(number), tried.files, tried.others, most=4)
        assert tried.problems(drawn) == []


def test_damaged_metadata_are_named_and_those_of_a_split_repaired_to_the_byte(tried: Tried) -> None:
    described = {name: data for name, data in tried.files.items() if name.endswith("zarr.json")}
    own = {"zarr.json": described.pop("zarr.json")}
    kinds = Counter[str]()
    for files in (own, described):
        for number in range(20):
            drawn = metadata(random.Random(number), files, tried.others)
            kinds[drawn.kind] += 1
            assert tried.problems([drawn]) == []
    assert len(kinds) == 6


def test_every_kind_of_corruption_changes_something(tried: Tried) -> None:
    chunks = {name: data for name, data in tried.files.items() if "/c/" in name}
    for kind in OF_CHUNKS:
        for number in range(20):
            drawn = kind(random.Random(number), chunks, tried.others)
            assert drawn.faults
            assert all(new != chunks.get(name) for name, new in drawn.changed.items() if name in drawn.faults)


def test_what_verify_overlooks_or_names_for_nothing_is_a_problem(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = {name: data for name, data in tried.files.items() if "/c/" in name}
    swap = next(kind for kind in OF_CHUNKS if kind.__name__ == "swap_units")(
        random.Random(0), chunks, tried.others
    )
    with monkeypatch.context() as patch:
        patch.setattr(audit, "check_ledger", lambda *given: [])
        problems = tried.problems([swap])
    assert len([problem for problem in problems if "not named: " in problem]) == 2
    assert len([problem for problem in problems if "not as before: " in problem]) > 5
    assert Path(tried.path, "zarr.json").exists()
    assert tried.problems([swap]) == []
