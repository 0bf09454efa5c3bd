"""Every command's settings: one frozen dataclass each, the only place where a default or a help text stands.

The command line is generated from these fields, a TOML file may set any of them, and a run folder keeps the whole.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.field import argument, setting

LARGEST_SEED = 2**32 - 1  # NumPy's, PyTorch's and faiss's generators all take it
PRECISIONS = ("fp32", "bf16")
EXPORT_FORMATS = ("safetensors", "onnx")


@dataclass(frozen=True, kw_only=True)
class DemoDataConfig:
    """The demo's images."""

    out: Path = argument("image folder to write")
    train: int = setting(0, "training images, balanced over classes; 0: all", least=0)
    val: int = setting(0, "validation images, likewise; 0: all", least=0)


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Images -> dataset: ordered rows, identity, one .beton a split."""

    data: Path = argument("folder of images, of train/ and val/ folders, or of parquet files")
    out: Path = argument("dataset folder to write")
    max_resolution: int = setting(512, "longest side kept, in pixels; larger images are reduced")
    jpeg_quality: int = setting(90, "quality of images that are stored as JPEG, 1 to 100")
    write_mode: str = setting(
        "smart", "raw pixels, JPEG, or raw for small images only", choices=("smart", "raw", "jpg")
    )
    workers: int = setting(0, "processes that read and decode; 0: one a core")


@dataclass(frozen=True, kw_only=True)
class CacheTeacherConfig:
    """Stage one: run the teacher once over every image and write its embeddings to a store."""

    dataset: Path = argument("dataset folder that `pack` wrote")
    cache: Path = argument("store to write or go on with, NAME.zarr")
    teacher: str = setting("demo", "registry name, timm/NAME, torchvision/NAME or package.module:function")
    weights: Path | None = setting(None, "the teacher's weights: .safetensors, .pt or .pth")
    image_size: int = setting(0, "input in pixels; 0: the teacher's own", least=0)
    split: tuple[str, ...] = setting((), "only these splits, separated by commas. Default: all")
    batch_size: int = setting(128, "images a forward pass; recorded, since the bits of a row depend on it")
    amp_dtype: str = setting("fp32", "precision of the forward pass", choices=PRECISIONS)
    workers: int = setting(0, "dask workers on this machine; 0: one a GPU, or one a core up to four")
    scheduler: str | None = setting(None, "address of a dask cluster that already runs")
    device: str = setting("auto", "cpu, cuda, or auto")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """A store against what was written, and rows of it against what its teacher says of the images."""

    cache: Path = argument("store to verify, NAME.zarr")
    rows: int = setting(0, "random rows to compute again from the images and compare; 0: none", least=0)
    dataset: Path | None = setting(None, "dataset folder that the store was made of; --rows needs it")
    teacher: str = setting("", "the store's teacher, where the store does not tell it")
    weights: Path | None = setting(None, "the teacher's weights, as for cache-teacher")
    seed: int = setting(0, "of the rows that are drawn", least=0, most=LARGEST_SEED)
    device: str = setting("auto", "cpu, cuda, or auto")


@dataclass(frozen=True, kw_only=True)
class RepairConfig(VerifyConfig):
    """Compute the chunks of a store anew that are at fault."""

    cache: Path = argument("store to repair, NAME.zarr")
    dataset: Path = setting(help="dataset folder that the store was made of")
    workers: int = setting(0, "dask workers on this machine; 0: one a GPU, or one a core up to four", least=0)
    scheduler: str | None = setting(None, "address of a dask cluster that already runs")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `distill` and `pretrain` share: the student and how it is optimised."""

    student: str = setting(
        "resnet18",
        "resnet18, resnet50, mobilenet_v2, alexnet, timm/NAME, ...; several in one pass, into RUN/STUDENT "
        "each, by --student again",
        several=True,
    )
    image_size: int = setting(224, "the student's input, in pixels", least=1)
    epochs: int = setting(130, "epochs; 0 writes the untrained student", least=0)
    batch_size: int = setting(256, "images a step over all ranks", least=1)
    lr: float = setting(
        0.0, "learning rate at its highest; 0: the objective's own, see `objectives`", least=0
    )
    wd: float = setting(1e-4, "weight decay", least=0)
    optimizer: str = setting("sgd", "SGD with momentum 0.9, or AdamW", choices=("sgd", "adamw"))
    schedule: str = setting(
        "own",
        "step: x 0.2 at 70 and 93 percent, the paper's; cosine: to zero; own: the objective's",
        choices=("own", "step", "cosine"),
    )
    warmup: float = setting(0.0, "epochs of linear warm-up", least=0)
    subset: float = setting(1.0, "share of the rows to train on, drawn by the seed; anchors likewise")
    seed: int = setting(0, "of initial weights, order, crops and anchors", least=0, most=LARGEST_SEED)
    amp_dtype: str = setting("bf16", "autocast's precision; parameters stay fp32", choices=PRECISIONS)
    workers: int = setting(1, "threads that decode images, a rank", least=1)
    device: str = setting("auto", "cpu, cuda, or auto")
    compile: bool = setting(False, "torch.compile the student")
    eval_every: int = setting(0, "nearest-neighbour accuracy every so many epochs; 0: never", least=0)
    save_every: int = setting(500, "a checkpoint every so many steps, besides each epoch's", least=1)
    inexact: bool = setting(False, "resume although world size, threads or versions differ")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TrainConfig):
    """Stage two: train a student from the cache."""

    dataset: Path = argument("dataset folder that the cache was made of")
    cache: Path = argument("the teacher's store")
    run: Path = argument("run folder to write or go on with")
    objective: str = setting("1q", "what the student is trained with; see `objectives`")
    anchors: str = setting(
        "", "anchor points K, or all. Default: the objective's, or every eligible row if fewer"
    )
    tau: float = setting(0.0, "temperature; 0: the objective's own, see `objectives`")
    student_tau: float = setting(0.0, "seed: the student's temperature; 0: 0.2")
    loss_dtype: str = setting(
        "fp32", "1q and seed: precision of the products with the anchors; sums stay fp32", choices=PRECISIONS
    )
    momentum: float = setting(
        0.999, "2q: of the key encoder; 0: the bank is filled by the queries", least=0, most=1
    )
    head_dim: int = setting(0, "2q: width of a linear head on the student; 0: no head", least=0)
    negatives: int = setting(16_384, "crd: negatives an image, at most the other rows")
    clusters: int = setting(16_000, "cc: clusters of k-means, at most a quarter of the rows")
    crop_scale: tuple[float, float] = setting(
        (0.08, 1.0), "range of a random crop's area", least=0.001, most=1
    )
    live_teacher: bool = setting(False, "run the teacher on each crop: the control of caching")
    teacher: str = setting("", "--live-teacher: the cache's teacher, where the cache does not tell it")
    weights: Path | None = setting(None, "--live-teacher: the teacher's weights, as for cache-teacher")
    partial: bool = setting(False, "train on the rows cached so far, and to the end on those alone")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Self-supervised from scratch: SimCLR on the dataset's training images."""

    dataset: Path = argument("dataset folder that `pack` wrote")
    run: Path = argument("run folder to write or go on with")
    epochs: int = setting(100, "epochs; 0 writes the untrained student", least=0)
    lr: float = setting(0.06, "learning rate at its highest", least=0)
    schedule: str = setting(
        "cosine", "cosine: to zero; step: x 0.2 at 70 and 93 percent", choices=("cosine", "step")
    )
    tau: float = setting(0.1, "temperature of NT-Xent", least=0.001)
    crop_scale: tuple[float, float] = setting(
        (0.08, 1.0), "range of a random crop's area", least=0.001, most=1
    )
    jitter: float = setting(0.4, "strength of brightness, contrast and saturation", least=0, most=1)
    grayscale: float = setting(0.2, "probability that a view loses its colours", least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Any backbone over images, into a store, .npy or parquet."""

    data: Path = argument("dataset folder, or a plain folder of images")
    out: Path = argument("NAME.zarr for a dataset; NAME.npy or NAME.parquet for a plain folder")
    run: Path | None = setting(None, "run folder whose student embeds, or a .safetensors of `export`")
    teacher: str | None = setting(None, "or a teacher: registry name, timm/NAME, ...")
    weights: Path | None = setting(None, "the teacher's weights")
    image_size: int = setting(0, "input in pixels; 0: the backbone's own", least=0)
    batch_size: int = setting(128, "images a forward pass", least=1)
    amp_dtype: str = setting("fp32", "precision of the forward pass", choices=PRECISIONS)
    workers: int = setting(0, "dask workers on this machine; 0: one a GPU, or one a core up to four")
    device: str = setting("auto", "cpu, cuda, or auto")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A student for other programs."""

    run: Path = argument("run folder whose student is exported")
    out: Path = argument("file to write, NAME.safetensors or NAME.onnx")
    format: str | None = setting(None, "what OUT is. Default: as its name ends", choices=EXPORT_FORMATS)
    half: bool = setting(False, "weights in float16")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluate runs and caches; what is not embedded yet is embedded first."""

    targets: tuple[Path, ...] = argument("run folders and caches, a row of the table each")
    dataset: Path = setting(help="dataset folder to evaluate on, or VOCdevkit/VOC2007")
    protocol: tuple[str, ...] = setting(
        ("nn", "linear", "ca"),
        "nn, linear, ca, few-label, transfer; or, on VOC, voc, voc-detection; separated by commas",
    )
    features: str = setting(
        "cached",
        "linear on stored centre crops, or on random crops through the backbone as in the paper",
        choices=("cached", "augmented"),
    )
    layer: str = setting("", "linear: a layer inside the student (conv5, layer3, ...), or all of them")
    labels: tuple[str, ...] = setting(
        ("1shot", "1pct", "10pct"), "few-label: images of each class or share of all, separated by commas"
    )
    draws: int = setting(5, "few-label: draws of each number of shots", least=1)
    ca_seeds: int = setting(5, "ca: random starts of k-means; the mean is reported", least=1)
    epochs: int = setting(40, "epochs of the linear probe", least=1)
    batch_size: int = setting(256, "of random crops for the linear probe", least=1)
    detection_epochs: int = setting(30, "voc-detection: epochs", least=1)
    detection_batch_size: int = setting(8, "voc-detection: images a step", least=1)
    detection_lr: float = setting(
        0.02, "voc-detection: learning rate for 16 images, of which a batch gets its share", least=0
    )
    detection_size: int = setting(600, "voc-detection: shorter side of the images, in pixels", least=32)
    amp_dtype: str = setting("fp32", "voc-detection: autocast's precision", choices=PRECISIONS)
    seed: int = setting(0, "of the linear probe, the draws and k-means", least=0, most=LARGEST_SEED)
    workers: int = setting(0, "dask workers for embedding", least=0)
    scheduler: str | None = setting(None, "address of a dask cluster that already runs, for embedding")
    device: str = setting("auto", "cpu, cuda, or auto")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What runs and caches came to: a page of HTML, or a table in Markdown."""

    targets: tuple[Path, ...] = argument("run folders, caches, metrics files and recipes of sweeps")
    out: Path = setting(help="page to write, NAME.html; or NAME.md, whose results markers get the table")
    dataset: Path | None = setting(None, "page: dataset folder whose images it shows")
    name: str = setting("results", "Markdown: which pair of markers to write between")
    seed: int = setting(0, "page: of the images, clusters and maps that it draws", least=0, most=LARGEST_SEED)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A grid of runs over one cache, each trained and evaluated in a process of its own."""

    recipe: Path = argument("RECIPE.toml: dataset, cache, rows and grid")
    launcher: str = setting(
        "", "what starts each training, such as 'torchrun --standalone --nproc-per-node 8'; default: python"
    )
    only: tuple[str, ...] = setting((), "only trials whose name has one of these in it, separated by commas")


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What both stages will take: bytes, memory and time, before anything is spent."""

    dataset: Path | None = argument("dataset that `pack` wrote, or --images in its place", default=None)
    images: int = setting(0, "without a DATASET: training images", least=0)
    val_images: int = setting(0, "without a DATASET: validation images", least=0)
    picture_bytes: int = setting(0, "without a DATASET: bytes of a picture in its .beton", least=0)
    teacher: str = setting("demo", "as for cache-teacher; its weights are not needed")
    teacher_size: int = setting(0, "the teacher's input in pixels; 0: its own", least=0)
    teacher_batch_size: int = setting(128, "images a forward pass of the teacher", least=1)
    teacher_amp_dtype: str = setting("fp32", "precision of the teacher's forward pass", choices=PRECISIONS)
    student: str = setting("resnet18", "as for distill")
    image_size: int = setting(224, "the student's input, in pixels", least=1)
    objective: str = setting("1q", "what the student is trained with", choices=("1q", "2q"))
    anchors: str = setting("", "anchor points K, or all. Default: 128,000, or every image if fewer")
    head_dim: int = setting(0, "2q: width of a linear head on the student; 0: no head", least=0)
    epochs: int = setting(130, "epochs of a student", least=1)
    batch_size: int = setting(256, "images a step over all GPUs", least=1)
    optimizer: str = setting("sgd", "SGD with momentum 0.9, or AdamW", choices=("sgd", "adamw"))
    amp_dtype: str = setting("bf16", "precision of the student's training", choices=PRECISIONS)
    gpus: int = setting(0, "GPUs of both stages; 0: those of this machine, or its processor", least=0)
    cores: int = setting(0, "processor cores that decode images; 0: those of this machine", least=0)
    workers: int = setting(1, "threads that decode for a student, a GPU", least=1)
    rate: float = setting(
        0.0,
        "images/s that one device trains a ResNet-50 at 224 px with: other networks by their operations",
        least=0,
    )
    teacher_rate: float = setting(0.0, "images/s of the teacher on one device, in place of --rate's", least=0)
    student_rate: float = setting(
        0.0, "images/s of the student's training on one device, in place of --rate's", least=0
    )
    decode_rate: float = setting(
        0.0, "with rates: images/s that a core decodes for the teacher; 0: left out", least=0
    )
    load_rate: float = setting(
        0.0, "with rates: images/s that a thread decodes for the student; 0: left out", least=0
    )
    json: bool = setting(False, "print JSON in place of tables")
    out: Path | None = setting(None, "write the table into a Markdown file, NAME.md, between its markers")
    name: str = setting("plan", "--out: which pair of markers")
