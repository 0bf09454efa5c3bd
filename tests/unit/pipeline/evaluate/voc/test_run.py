"""`eval` on a folder of PASCAL VOC keeps a run's other metrics, and refuses what does not apply."""

from pathlib import Path

import pytest

from pipeline.errors import WrongUse
from pipeline.evaluate.run import evaluate_targets
from pipeline.models.checkpoints import weights_sha256
from pipeline.models.student_file import load_run_student
from pipeline.results.records import load_metrics
from pipeline.settings.commands import EvalConfig
from pipeline.settings.training import PretrainConfig
from pipeline.training.pretrain import pretrain
from tests.support.voc_folder import draw_voc

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_voc(tmp_path_factory.mktemp("drawn"), {"train": 12, "val": 12, "test": 12})


@pytest.fixture(scope="module")
def run(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, student = tmp_path_factory.mktemp("voc-run") / "run", "tests.support.tiny_trunk:build"
    pretrain(
        PretrainConfig(dataset=packed, run=folder, student=student, image_size=24, epochs=0, batch_size=32)
    )
    return folder


def test_vocs_numbers_stand_beside_the_runs_own(
    run: Path, packed: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights_sha256(load_run_student(run).module)
    evaluate_targets(EvalConfig(targets=(run,), dataset=packed, protocol=("nn",), device="cpu"))
    own = load_metrics(run / "metrics.json")
    protocol, quick = ("voc", "voc-detection"), {"detection_epochs": 1, "detection_size": 64}
    evaluate_targets(EvalConfig(targets=(run,), dataset=folder, protocol=protocol, device="cpu", **quick))
    both = load_metrics(run / "metrics.json")
    voc = {"voc", "voc_area", "voc_detection", "voc_detection_area"}
    assert set(both.metrics) == set(own.metrics) | {f"{name}@VOC2007" for name in voc}
    assert both.provenance["dataset"] == own.provenance["dataset"]
    assert f"{100 * both.metrics['voc@VOC2007']:.1f}" in capsys.readouterr().out
    assert weights_sha256(load_run_student(run).module) == before


def test_wrong_use_of_voc_is_refused(run: Path, cached: Path, packed: Path, folder: Path) -> None:
    for targets, protocol, dataset, sentence in [
        ((run,), ("nn", "voc"), folder, "nn and VOC's protocols read different kinds of folders"),
        ((cached,), ("voc",), folder, "VOC needs a run's student"),
        ((run,), ("voc",), packed, "expected a folder like VOCdevkit/VOC2007"),
        ((run,), ("vok",), folder, "did you mean 'voc'"),
    ]:
        config = EvalConfig(targets=targets, dataset=dataset, protocol=protocol, device="cpu")
        with pytest.raises(WrongUse, match=sentence):
            evaluate_targets(config)
