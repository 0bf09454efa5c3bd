"""Values that are not finite stop a run before it is saved; collapsed features give a warning."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.training.distill import distill
from pipeline.training.health import TrainingHealth, list_rows, mean_cosine, non_finite_weights
from pipeline.training.recorded_run import RESUME_FILE
from pipeline.training.student_run import StudentRun
from tests.support.training_runs import settings, weights

ROWS = torch.tensor([7, 3, 9])


def spread(seed: int = 0) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    features = spread().double()
    pairs = [
        nn.functional.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(features, 2)
    ]
    # float32 sums over 3 rows
    assert mean_cosine(features.float()) == pytest.approx(sum(pairs) / 3, abs=1e-6)
    assert mean_cosine(torch.tensor([[1.0, 0], [-2, 0]])) == pytest.approx(-1)
    assert mean_cosine(torch.tensor([[1.0, 2], [2, 4], [3, 6]])) == pytest.approx(1)
    assert mean_cosine(torch.zeros(5, 2)) == 1
    assert not mean_cosine(torch.ones(1, 2)) <= 1, "one row has no pair"


def test_the_first_bad_step_is_named_with_its_rows_and_only_once() -> None:
    health, nan = TrainingHealth(), torch.tensor(float("nan"))
    assert health.first_problem() is None
    health.record(1, ROWS, torch.tensor(0.5), [spread()])
    assert health.first_problem() is None
    health.record(2, ROWS + 1, torch.tensor(0.5), [spread()])
    health.record(3, ROWS, nan, [spread()])
    health.record(4, ROWS + 2, nan, [spread()])
    assert health.first_problem() == "the loss is nan at step 3, on rows 7, 3, 9 of the train split"
    assert health.first_problem() is None


def test_rows_with_bad_features_are_named_whichever_view_they_are_in() -> None:
    health, bad = TrainingHealth(), spread()
    bad[1, 2] = torch.inf
    health.record(8, ROWS, torch.tensor(0.5), [spread(), bad])
    assert (
        health.first_problem()
        == "the student's features are not finite at step 8 for row 3 of the train split"
    )


def test_many_rows_are_listed_briefly() -> None:
    assert list_rows(torch.arange(5)) == "rows 0, 1, 2, 3, 4"
    assert list_rows(torch.arange(1300)) == "rows 0, 1, 2, 3, 4 and 1,295 more"


def test_collapse_is_warned_of_once_and_only_when_it_lasts() -> None:
    health = TrainingHealth()

    def look(step: int, features: Tensor) -> str | None:
        health.record(step, ROWS, torch.tensor(0.5), [features])
        return health.collapse_warning(step)

    collapsed = torch.ones(3, 4) + 1e-3 * spread()
    assert [look(step, collapsed) for step in (10, 20)] == [None, None]
    assert look(30, spread()) is None
    assert [look(step, collapsed) for step in (40, 50)] == [None, None]
    assert "since step 40" in str(look(60, collapsed))
    assert look(70, collapsed) is None


def test_weights_that_are_not_finite_are_named() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert non_finite_weights(network, 5) is None
    with torch.no_grad():
        network[1].bias[0] = torch.nan
    assert non_finite_weights(network, 5) == "the weights in 1.bias are not finite after step 5"


def poison_after(step: int, monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """Make a run's weights NaN at the end of a step. Returns the rows of each step, filled while it trains."""
    train_step, rows = StudentRun.train_step, {}

    def poisoned(self: StudentRun, batch: Any, rate: float) -> None:
        train_step(self, batch, rate)
        rows[self.step] = batch.rows.tolist()
        if self.step == step:
            with torch.no_grad():
                next(self.network.parameters()).fill_(torch.nan)

    monkeypatch.setattr(StudentRun, "train_step", poisoned)
    return rows


def test_features_that_are_not_finite_stop_a_run_before_they_are_saved(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are at steps 3, 4, 6 and 8, and nothing is logged before step 10."""
    rows = poison_after(7, monkeypatch)
    config = settings(packed, cached, tmp_path / "run")
    with pytest.raises(PipelineError) as caught:
        distill(config)
    first = ", ".join(map(str, rows[8][:5]))
    assert f"features are not finite at step 8 for rows {first} and 35 more of" in str(caught.value)
    assert f"the last good checkpoint in {config.run} is of step 6" in str(caught.value)
    assert torch.load(config.run / RESUME_FILE)["step"] == 6
    assert all(tensor.isfinite().all() for tensor in weights(config.run).values())


def test_weights_that_are_not_finite_are_not_saved(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_after(3, monkeypatch)
    with pytest.raises(PipelineError, match=r"weights in .* after step 3; there is no checkpoint yet"):
        distill(settings(packed, cached, tmp_path / "run"))
    assert not (tmp_path / "run" / RESUME_FILE).exists()


@pytest.mark.parametrize("objective", ["1q", "2q"])
def test_a_run_that_diverges_stops(packed: Path, cached: Path, tmp_path: Path, objective: str) -> None:
    config = settings(packed, cached, tmp_path / "run", objective=objective, lr=1e30, save_every=100)
    with pytest.raises(PipelineError, match=r"not finite at step|loss is (nan|inf) at step"):
        distill(replace(config, student="tests.support.tiny_student:plain"))


def test_collapsed_features_are_warned_of_once(
    packed: Path, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(packed, cached, tmp_path / "run", epochs=12)
    distill(replace(config, student="tests.support.tiny_student:constant", lr=1e-9))
    assert capsys.readouterr().out.count("warning: features have collapsed") == 1
    distill(replace(config, run=tmp_path / "sound"))
    assert "warning" not in capsys.readouterr().out
