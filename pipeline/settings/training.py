"""Settings of `distill` and `pretrain`; a run folder records all of them."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.field import DEVICE, MAX_SEED, PRECISIONS, READ, CommandSettings, argument, setting

OPTIMIZERS = ("sgd", "nesterov", "adamw")
ANCHOR_POLICIES = ("window", "neighbours", "kmeans")
SCHEDULES = ("step", "step-30-60-80", "cosine")
TRACKERS = ("wandb", "mlflow")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommandSettings):
    """Settings that `distill` and `pretrain` share: the student and its optimization.

    Those of optimization are None where the command leaves them to the objective, until `resolved` fills them in, and
    amp_dtype where it leaves it to the device, until `with_precision` does.
    """

    student: str = setting(
        "resnet18",
        "network to train: resnet18, resnet50, mobilenet_v2, alexnet, timm/NAME, torchvision/NAME or "
        "package.module:function; repeat --student to train several in one pass, each into RUN/STUDENT",
        repeatable=True,
    )
    image_size: int = setting(224, "input size of the student, in pixels", minimum=1)
    epochs: int = setting(
        None,
        "number of epochs; 0 writes the untrained student. Default: the objective's, see `objectives`",
        keeps_zero=True,
    )
    batch_size: int = setting(
        None, "images per step over all ranks. Default: the objective's", minimum=1, keeps_zero=True
    )
    lr: float = setting(None, "peak learning rate. Default: the objective's")
    wd: float = setting(None, "weight decay. Default: the objective's", keeps_zero=True)
    optimizer: str = setting(
        None,
        "SGD with momentum 0.9; nesterov: SGD with Nesterov momentum and no weight decay of batch norm; or AdamW. "
        "Default: the objective's",
        choices=OPTIMIZERS,
    )
    schedule: str = setting(
        None,
        "learning rate schedule; step: x 0.2 at 70 and 93 percent, as in the paper; step-30-60-80: x 0.1 at 30, 60 "
        "and 80 percent; cosine: decay to zero. Default: the objective's",
        choices=SCHEDULES,
    )
    warmup: float = setting(0.0, "epochs of linear learning rate warm-up")
    subset: float = setting(1.0, "fraction of the rows to train on and take anchors from, drawn by the seed")
    seed: int = setting(
        0, "random seed for initial weights, image order, crops and anchors", maximum=MAX_SEED
    )
    amp_dtype: str = setting(
        None,
        "autocast precision; parameters stay fp32. On CUDA, bf16 also lets 1q, 1q-reg-bn, 2q and seed compute their "
        "products with the anchors in TF32; fp32 is float32 throughout. Default: bf16 where the hardware supports "
        "it, else fp32",
        choices=PRECISIONS,
    )
    workers: int | None = setting(
        None,
        "threads per rank that decode images; results do not depend on it. Default: on CUDA, the cores divided by the "
        "ranks on this machine; on the CPU, 1",
        minimum=1,
        keeps_zero=True,
    )
    device: str = setting("auto", DEVICE)
    deterministic: bool = setting(
        False, "on CUDA, use repeatable algorithms only, which may be slower; the CPU always does"
    )
    compile: bool = setting(False, "compile the student with torch.compile")
    eval_every: int | None = setting(
        None,
        "epochs between evaluations on val: accuracy by nearest neighbours, if there are labels, and how closely the "
        "student follows its teacher. Default: never",
    )
    save_every: int = setting(
        500, "steps between checkpoints; each epoch also ends with a checkpoint", minimum=1
    )
    tracker: str | None = setting(
        None,
        "also log to Weights & Biases or MLflow, if it is installed: loss, rates and evaluations",
        choices=TRACKERS,
    )
    inexact: bool = setting(False, "allow resuming with another number of ranks, threads or package versions")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TrainConfig):
    """Settings of `distill`."""

    dataset: Path = argument("dataset folder the cache was made from, or its URL", url=READ)
    cache: Path = argument("the teacher's store, or its URL", url=READ)
    run: Path = argument("run folder to write or resume")
    objective: str = setting(
        "1q", "training objective, see `objectives`, or your own: package.module:function"
    )
    objective_args: tuple[str, ...] = setting(
        (), "with your own objective: its settings, as key=value,key=value"
    )
    anchors: str | None = setting(
        None,
        "number of anchor points K, or all. Default: the objective's, or every eligible row if fewer; of the "
        "policies neighbours and kmeans at most 16,000, of kmeans at most a quarter of the rows",
    )
    anchor_policy: str = setting(
        "window",
        "objectives 1q and 1q-reg-bn: what the anchors are. window: images that change step by step, as in the "
        "paper; neighbours: these and each image's nearest neighbours, see `cache neighbours`; kmeans: centroids, each "
        "of which counts for its cluster",
        choices=ANCHOR_POLICIES,
    )
    neighbours: int | None = setting(
        None, "policy neighbours: how many neighbours of each image. Default: all in the cache's graph"
    )
    tau: float | None = setting(None, "temperature. Default: the objective's, see `objectives`")
    student_tau: float | None = setting(None, "objective seed: the student's temperature. Default: 0.2")
    loss_dtype: str = setting(
        "fp32",
        "objectives 1q, 1q-reg-bn and seed: precision of the products with the anchors; sums stay fp32",
        choices=PRECISIONS,
    )
    momentum: float = setting(
        0.999, "objective 2q: momentum of the key encoder; 0 fills the queue with the queries", maximum=1
    )
    head_dim: int | None = setting(
        None, "objective 2q: width of a linear head on the student. Default: no head"
    )
    negatives: int = setting(16_384, "objective crd: negatives per image, at most the number of other rows")
    clusters: int = setting(16_000, "objective cc: number of k-means clusters, at most a quarter of the rows")
    crop_scale: tuple[float, float] = setting(
        (0.08, 1.0), "range of a random crop's area, as fractions of the image", minimum=0.001, maximum=1
    )
    replay: bool = setting(
        False,
        "show the student one of the cache's random crops in each epoch, in turn; see cache-teacher --views",
    )
    replay_views: int | None = setting(
        None, "with --replay: how many of the cache's random crops take turns. Default: all that it has"
    )
    live_teacher: bool = setting(
        False, "run the teacher on every crop, at its own input size, instead of reading its cached embedding"
    )
    teacher: str | None = setting(
        None, "with --live-teacher: the teacher. Default: the one recorded in the cache"
    )
    weights: Path | None = setting(
        None, "with --live-teacher: the teacher's weights file, as for cache-teacher"
    )
    partial: bool = setting(
        False, "train on an incomplete cache: on the rows present at the start, to the end of the run"
    )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Settings of `pretrain`."""

    dataset: Path = argument("dataset folder written by `pack`, or its URL", url=READ)
    run: Path = argument("run folder to write or resume")
    epochs: int = setting(100, "number of epochs; 0 writes the untrained student")
    batch_size: int = setting(256, "images per step over all ranks", minimum=1)
    lr: float = setting(0.06, "peak learning rate")
    wd: float = setting(1e-4, "weight decay")
    optimizer: str = setting(
        "sgd",
        "SGD with momentum 0.9; nesterov: SGD with Nesterov momentum and no weight decay of batch norm; or AdamW",
        choices=OPTIMIZERS,
    )
    schedule: str = setting(
        "cosine",
        "learning rate schedule; cosine: decay to zero; step: x 0.2 at 70 and 93 percent; step-30-60-80: x 0.1 at "
        "30, 60 and 80 percent",
        choices=SCHEDULES,
    )
    tau: float = setting(0.1, "temperature of NT-Xent", minimum=0.001)
    crop_scale: tuple[float, float] = setting(
        (0.08, 1.0), "range of a random crop's area, as fractions of the image", minimum=0.001, maximum=1
    )
    jitter: float = setting(0.4, "strength of brightness, contrast and saturation jitter", maximum=1)
    grayscale: float = setting(0.2, "probability of converting a view to grayscale", maximum=1)


CONFIGS = {"distill": DistillConfig, "pretrain": PretrainConfig}  # by command
