"""A user's own objective: the example of its how-to page, its settings, and what is refused."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cache.reader import Split, open_store
from pipeline.errors import PipelineError, WrongUse
from pipeline.objectives.objective import Objective, l2_normalize
from pipeline.objectives.own_objective import parsed
from pipeline.objectives.registry import build_objective, resolved
from pipeline.settings.training import DistillConfig
from pipeline.training.distill import distill
from tests.support.tiny_batch import STUDENT_DIM, eligible_batch, losses_of_descent
from tests.support.training_runs import assert_same_run, distill_until_crash, settings

PAGE = Path(__file__).resolve().parents[4] / "docs/how-to/own-objective.md"
EXAMPLE = re.search(r"```python\n(# my_objective.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
OWN = "my_objective:in_batch"


@pytest.fixture(autouse=True)
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the page's example into the current folder, from which it is imported."""
    assert EXAMPLE is not None
    file = tmp_path / "my_objective.py"
    file.write_text(EXAMPLE[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_objective", raising=False)
    return file


def built(split: Split, **changes: Any) -> Objective:
    places = {name: Path(name) for name in ("dataset", "cache", "run")}
    config = resolved(DistillConfig(**places, **{"objective": OWN, **changes}))
    return build_objective(config, STUDENT_DIM, split, split.eligible())


def test_the_pages_example_is_short() -> None:
    assert EXAMPLE is not None
    assert len([line for line in EXAMPLE[1].splitlines() if line.strip()]) <= 30


def test_the_pages_example_computes_what_it_says(cached: Path) -> None:
    split = open_store(cached).split("train")
    batch, student = eligible_batch(split, 12), torch.randn(12, split.shape.dim).double()
    loss = built(split, objective_args=("tau=0.1",))((student,), batch, 0)
    expected = 0.0
    sides = l2_normalize(student).double(), batch.teacher.double()
    for i in range(12):
        others = [j for j in range(12) if j != i]
        s, t = ((side[others] @ side[i] / 0.1).log_softmax(0) for side in sides)
        expected += float((t.exp() * (t - s)).sum()) / 12
    assert loss.item() == pytest.approx(expected, rel=1e-4)  # computed in float32


def test_a_network_learns_from_it(cached: Path) -> None:
    split = open_store(cached).split("train")
    descent = losses_of_descent(built(split), [eligible_batch(split, 16)] * 20, lr=0.1)
    assert descent[-1] < 0.7 * descent[0]


def test_a_run_resumes_exactly_and_refuses_an_edited_function(
    packed: Path, cached: Path, tmp_path: Path, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"objective": OWN, "objective_args": ("tau=0.1",)}
    whole, stopped = (settings(packed, cached, tmp_path / name, **own) for name in ("whole", "stopped"))
    distill(whole)
    distill_until_crash(stopped, monkeypatch)
    text = example.read_text(encoding="utf-8")
    example.write_text(text.replace("-1e4", "-2e4"), encoding="utf-8")
    del sys.modules["my_objective"]
    with pytest.raises(PipelineError, match=r"resuming would not be exact \(objective\.code"):
        distill(stopped)
    example.write_text(text, encoding="utf-8")
    del sys.modules["my_objective"]
    distill(stopped)
    assert_same_run(stopped.run, whole.run)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("a=1", 1),
        ("a=0.5", 0.5),
        ("a=1e-3", 1e-3),
        ("a=true", True),
        ("a=.5", 0.5),
        ("a=False", False),
        ("a=mlp", "mlp"),
        ("a=x=y", "x=y"),
        ("a=[1]", "[1]"),
    ],
)
def test_arguments(argument: str, value: Any) -> None:
    found = parsed([argument])["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective_args": ("tau",)}, "--objective-args tau: expected key=value"),
        ({"objective_args": ("tau=",)}, "--objective-args tau=: expected key=value"),
        ({"objective_args": ("tau=1", "tau=2")}, "--objective-args: tau is given twice"),
        ({"objective_args": ("tow=1",)}, "unexpected keyword argument 'tow'"),
        ({"objective": "my_objective:in_bach"}, "has no function 'in_bach'; did you mean 'in_batch'?"),
        ({"objective": "nowhere:f"}, "nowhere:f cannot be imported from here"),
        ({"objective": "1q", "objective_args": ("tau=1",)}, "--objective-args with the objective 1q"),
        ({"tau": 0.1}, "--tau 0.1: the objective my_objective:in_batch has no such temperature"),
    ],
)
def test_what_is_refused(cached: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongUse, match=re.escape(message)):
        built(open_store(cached).split("train"), **changes)


def test_an_error_in_the_function_is_its_own(cached: Path, example: Path) -> None:
    example.write_text(
        "def in_batch(config, student_dim, split, rows):\n    return None + 1\n", encoding="utf-8"
    )
    with pytest.raises(TypeError, match="unsupported operand"):
        built(open_store(cached).split("train"))


def test_a_function_that_returns_something_else_is_refused(cached: Path, example: Path) -> None:
    example.write_text("def in_batch(*given):\n    return 1\n", encoding="utf-8")
    with pytest.raises(PipelineError, match="returned a int; expected a pipeline"):
        built(open_store(cached).split("train"))
