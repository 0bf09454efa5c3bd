"""The paper's published results, in percent, on ImageNet-1k unless stated otherwise.

Abbasi Koohpayegani, Tejankar and Pirsiavash, CompRess, NeurIPS 2020, arXiv 2010.14713. Teachers, students and
objectives are named as in this project's registries, metrics as in metrics.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

CITATION = (
    "S. Abbasi Koohpayegani, A. Tejankar, H. Pirsiavash. CompRess: Self-Supervised Learning by Compressing "
    "Representations. NeurIPS 2020, arXiv 2010.14713"
)
TEACHER = "teacher"  # the objective of a row that is the teacher itself
MOCO, SIMCLR, SWAV = "moco_v2_resnet50", "simclr_resnet50x4", "swav_resnet50"
# The columns of the paper's main table: (teacher, student) -> the paper's name.
COLUMNS = {
    (MOCO, "alexnet"): "MoCo ResNet-50 → AlexNet",
    (MOCO, "resnet18"): "MoCo ResNet-50 → ResNet-18",
    (MOCO, "mobilenet_v2"): "MoCo ResNet-50 → MobileNetV2",
    (SIMCLR, "resnet50"): "SimCLR ResNet-50x4 → ResNet-50",
    (SWAV, "resnet18"): "SwAV ResNet-50 → ResNet-18",
}
MAIN, FURTHER = "Table 1", "further results"


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A system in the paper. metrics: in percent, by name. where: the table it is taken from."""

    teacher: str
    student: str
    objective: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    where: str = MAIN


def main_rows(table: str) -> list[PaperRow]:
    """Parse lines of an objective and one cell per column: linear/nn1/ca, or - where the paper has no value."""
    rows = []
    for line in table.strip().splitlines():
        objective, *cells = line.split()
        for (teacher, student), cell in zip(COLUMNS, cells, strict=True):
            if cell != "-":
                metrics = dict(zip(("linear", "nn1", "ca"), map(float, cell.split("/")), strict=True))
                rows.append(PaperRow(teacher=teacher, student=student, objective=objective, metrics=metrics))
    return rows


def further(teacher: str, student: str, objective: str, metrics: Mapping[str, float]) -> PaperRow:
    """Return a row of another table of the paper."""
    return PaperRow(teacher=teacher, student=student, objective=objective, metrics=metrics, where=FURTHER)


ROWS: tuple[PaperRow, ...] = (
    *main_rows("""
    teacher     70.8/57.3/34.2  70.8/57.3/34.2  70.8/57.3/34.2  75.6/64.5/38.7  75.6/60.7/27.6
    supervised  56.5/41.4/22.9  69.8/63.0/44.9  71.9/64.9/46.0  76.2/71.4/55.6  69.8/63.0/44.9
    cc          46.4/31.6/13.7  61.1/51.1/25.2  59.2/50.2/24.7  68.9/55.6/26.4  60.8/51.0/22.8
    crd         54.4/36.9/14.1  58.4/43.7/17.4  54.1/36.0/12.0  -               58.2/44.7/16.9
    reg         49.9/35.6/9.5   52.2/41.7/25.6  48.0/38.6/25.4  -               -
    reg-bn      56.1/42.8/22.3  58.2/47.3/27.2  62.3/48.7/27.0  -               60.6/47.6/20.8
    2q          56.4/48.4/33.3  61.7/53.4/34.7  63.0/54.4/35.5  71.0/63.0/41.1  62.4/53.7/26.7
    1q          57.5/48.0/27.0  62.6/53.5/33.0  65.8/54.8/32.8  71.9/63.3/41.4  65.6/56.0/26.3
    """),
    further(SIMCLR, "alexnet", "1q", {"linear": 59.0, "nn1": 50.7, "ca": 27.6}),
)

# AlexNet from MoCo's ResNet-50: Places-205 with the best layer, PASCAL VOC classification and detection (mAP).
TRANSFER: tuple[PaperRow, ...] = (
    further(MOCO, "alexnet", "supervised", {"linear@places": 39.4}),
    further(MOCO, "alexnet", "2q", {"linear@places": 40.4, "voc": 79.7, "voc_detection": 58.1}),
    further(MOCO, "alexnet", "1q", {"linear@places": 40.3, "voc": 76.2, "voc_detection": 59.3}),
)

# ResNet-50 from SimCLR's ResNet-50x4: top-1 accuracy of a linear layer on few labels.
FEW_LABELS: tuple[PaperRow, ...] = (
    further(SIMCLR, "resnet50", "2q", {"few1pct": 57.8, "few10pct": 66.3}),
    further(SIMCLR, "resnet50", "1q", {"few1pct": 59.7, "few10pct": 67.0}),
)
# The paper's baselines for these: ResNet-50 trained by methods without a teacher.
FEW_LABELS_BASELINES: Mapping[str, Mapping[str, float]] = {
    "SimCLR": {"few1pct": 48.3, "few10pct": 65.6},
    "BYOL": {"few1pct": 53.2, "few10pct": 68.8},
    "SwAV": {"few1pct": 53.9, "few10pct": 70.2},
}

# Ablations: nn1 after training on 25 % of ImageNet, read off the paper's plots (accurate to half a point).
TAU: Mapping[float, float] = {0.02: 46.3, 0.04: 46.8, 0.07: 40.3, 0.1: 34.5, 1.0: 3.0}
ANCHORS: Mapping[int, float] = {
    256: 36.0,
    512: 37.4,
    1024: 39.5,
    4096: 43.0,
    16384: 44.7,
    65536: 46.4,
    128000: 47.4,
}

# ResNet-18 from MoCo's ResNet-50, with a cached and with a live teacher. The live row is the main table's 2q.
CACHED: Mapping[str, float] = {"linear": 61.2, "nn1": 53.0}
LIVE: Mapping[str, float] = {"linear": 61.7, "nn1": 53.4}
CACHED_TIME = "about a third of the time with a live teacher"


def paper_row(teacher: str, student: str, objective: str) -> PaperRow | None:
    """Return the paper's row of a system, with the metrics of all tables; None if the paper does not have it."""
    rows = [
        row
        for row in (*ROWS, *TRANSFER, *FEW_LABELS)
        if (row.teacher, row.student, row.objective) == (teacher, student, objective)
    ]
    if not rows:
        return None
    metrics = {name: value for row in rows for name, value in row.metrics.items()}
    return PaperRow(
        teacher=teacher, student=student, objective=objective, metrics=metrics, where=rows[0].where
    )
