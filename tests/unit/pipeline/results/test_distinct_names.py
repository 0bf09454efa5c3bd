"""Different systems get different names, and seeds of one system keep a common one."""

from pathlib import Path
from typing import Any

from pipeline.results.distinct_names import Candidate, Input, distinct_names


def candidate(path: str, seed: int | None = 0, name: str = "1q", **settings: Any) -> Candidate:
    return Candidate(name=name, role="student", path=Path(path), seed=seed, dataset="d", settings=settings)


def test_a_system_alone_keeps_its_name() -> None:
    assert distinct_names([candidate("a", tau=0.04), candidate("b", name="2q", tau=0.1)]) == ["1q", "2q"]


def test_what_differs_is_named_and_seeds_stay_together() -> None:
    systems = [candidate("a", tau=0.04), candidate("b", seed=1, tau=0.04), candidate("c", tau=0.1, lr=1)]
    assert distinct_names(systems) == ["1q, tau 0.04", "1q, tau 0.04", "1q, tau 0.1"]


def test_without_a_difference_the_end_of_the_path_tells_them_apart() -> None:
    assert distinct_names([candidate("/x/a"), candidate("/x/b")]) == ["1q (a)", "1q (b)"]
    assert distinct_names([candidate("/x/a"), candidate("/y/a")]) == ["1q (x/a)", "1q (y/a)"]
    assert distinct_names([candidate("/v.s", None), candidate("/v.b", None)]) == ["1q (v.s)", "1q (v.b)"]


def test_only_those_that_share_a_name_and_a_seed_get_their_paths() -> None:
    systems = [candidate("/a", tau=1), candidate("/b", tau=1), candidate("/c", tau=2)]
    assert distinct_names(systems) == ["1q, tau 1 (a)", "1q, tau 1 (b)", "1q, tau 2"]


def test_systems_on_different_images_are_not_seeds_of_one() -> None:
    other = Candidate(name="1q", role="student", path=Path("/b"), seed=1, dataset="e")
    assert distinct_names([candidate("/a"), other]) == ["1q (a)", "1q (b)"]


def test_an_input_differs_by_its_id_and_is_shown_by_its_name() -> None:
    moved = [candidate("/a", cache=Input("1" * 64, "old")), candidate("/b", 1, cache=Input("1" * 64, "new"))]
    assert distinct_names(moved) == ["1q", "1q"], "one cache at two places"
    two = [candidate("/a", cache=Input("1" * 64, "x")), candidate("/b", cache=Input("2" * 64, "y"))]
    assert distinct_names(two) == ["1q, cache x", "1q, cache y"]
    alike = [candidate("/a", cache=Input("1" * 64, "x")), candidate("/b", cache=Input("2" * 64, "x"))]
    assert distinct_names(alike) == ["1q, cache x 11111111", "1q, cache x 22222222"]


def test_a_name_with_two_roles_is_two_systems() -> None:
    teacher = Candidate(name="1q", role="teacher", path=Path("/b"))
    assert distinct_names([candidate("/a"), teacher]) == ["1q", "1q"]
