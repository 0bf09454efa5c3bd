"""Flags, settings files and recipes that are refused, each with the whole sentence that says why."""

from tests.support.bad_cases import CACHE, DISTILL, EVAL, of, with_flags
from tests.support.bad_files import file, folder, nothing

SETTINGS = of(
    "distill {dataset} {cache} r --device cpu --config s.toml",
    missing=(nothing, "cannot read the settings in s.toml: [Errno 2] No such file or directory: 's.toml'"),
    a_folder=(folder("s.toml"), "cannot read the settings in s.toml: [Errno 21] Is a directory: 's.toml'"),
    no_toml=(
        file("s.toml", "epochs: 3"),
        "cannot read the settings in s.toml: Expected '=' after a key in a key/value pair (at "
        "line 1, column 7)",
    ),
    no_text=(
        file("s.toml", b"\xff\xfe\x00"),
        "cannot read the settings in s.toml: 'utf-8' codec can't decode byte 0xff in position 0: "
        "invalid start byte",
    ),
    unknown_key=(file("s.toml", "epoch = 3"), "s.toml: unknown setting 'epoch'; did you mean 'epochs'?"),
    a_table=(file("s.toml", "[epochs]\na = 1"), "s.toml: epochs: expected an integer, found {{'a': 1}}"),
    a_word_for_a_number=(file("s.toml", 'epochs = "3"'), "s.toml: epochs: expected an integer, found '3'"),
    a_fraction_of_an_epoch=(file("s.toml", "epochs = 1.5"), "s.toml: epochs: expected an integer, found 1.5"),
    a_truth_for_a_number=(file("s.toml", "epochs = true"), "s.toml: epochs: expected an integer, found True"),
    a_number_for_a_truth=(file("s.toml", "compile = 1"), "s.toml: compile: expected true or false, found 1"),
    a_number_for_a_word=(file("s.toml", "objective = 1"), "s.toml: objective: expected a string, found 1"),
    no_number=(file("s.toml", "lr = nan"), "s.toml: lr: expected a finite number, found nan"),
    endless=(file("s.toml", "lr = inf"), "s.toml: lr: expected a finite number, found inf"),
    another_optimizer=(
        file("s.toml", 'optimizer = "adam"'),
        "--optimizer: expected sgd, nesterov or adamw, found 'adam'; did you mean 'adamw'?",
    ),
    another_precision=(
        file("s.toml", 'amp_dtype = "fp16"'),
        "--amp-dtype: expected fp32 or bf16, found 'fp16'; did you mean 'bf16'?",
    ),
    another_schedule=(
        file("s.toml", 'schedule = "linear"'),
        "--schedule: expected step, step-30-60-80 or cosine, found 'linear'",
    ),
    below_zero=(file("s.toml", "epochs = -1"), "--epochs: expected a number of at least 0, found -1"),
    one_end_of_a_range=(
        file("s.toml", "crop_scale = [0.5]"),
        "s.toml: crop_scale: expected 2 values, found [0.5]",
    ),
    three_ends_of_a_range=(
        file("s.toml", "crop_scale = [0.1, 0.5, 1.0]"),
        "s.toml: crop_scale: expected 2 values, found [0.1, 0.5, 1.0]",
    ),
    a_number_for_a_range=(
        file("s.toml", "crop_scale = 0.5"),
        "s.toml: crop_scale: expected a list, found 0.5",
    ),
    a_range_backwards=(
        file("s.toml", "crop_scale = [1.0, 0.1]"),
        "--crop-scale: expected the lower bound first, found 1.0 0.1",
    ),
)
FLAGS = with_flags(
    DISTILL,
    ("--epochs x", "Invalid value for '--epochs': 'x' is not a valid integer."),
    ("--epochs -1", "--epochs: expected a number of at least 0, found -1"),
    ("--batch-size 0", "--batch-size: expected a number of at least 1, found 0"),
    ("--lr -0.1", "--lr: expected a number of at least 0, found -0.1"),
    ("--lr nan", "--lr: expected a finite number of at least 0, found nan"),
    ("--lr inf", "--lr: expected a finite number of at least 0, found inf"),
    ("--wd -1", "--wd: expected a number of at least 0, found -1.0"),
    ("--warmup -1", "--warmup: expected a number of at least 0, found -1.0"),
    ("--subset 0", "--subset 0.0 is not a share of the rows: expected a number above 0 and at most 1"),
    ("--subset 1.5", "--subset 1.5 is not a share of the rows: expected a number above 0 and at most 1"),
    ("--subset nan", "--subset: expected a finite number of at least 0, found nan"),
    ("--seed -1", "--seed: expected a number from 0 to 4294967295, found -1"),
    (
        "--seed 99999999999999999999999",
        "--seed: expected a number from 0 to 4294967295, found 99999999999999999999999",
    ),
    ("--workers -2", "--workers: expected a number of at least 1, found -2"),
    ("--save-every 0", "--save-every: expected a number of at least 1, found 0"),
    ("--eval-every -1", "--eval-every: expected a number of at least 0, found -1"),
    ("--momentum 1.5", "--momentum: expected a number from 0 to 1, found 1.5"),
    ("--head-dim -4", "--head-dim: expected a number of at least 0, found -4"),
    ("--crop-scale 0 1", "--crop-scale: expected a number from 0.001 to 1, found 0.0"),
    ("--crop-scale 0.5 2", "--crop-scale: expected a number from 0.001 to 1, found 2.0"),
    ("--crop-scale 0.9 0.1", "--crop-scale: expected the lower bound first, found 0.9 0.1"),
    ("--crop-scale 0.9", "Option '--crop-scale' requires 2 arguments."),
    ("--tau -1", "--tau: expected a number of at least 0, found -1.0"),
    ("--tau nan", "--tau: expected a finite number of at least 0, found nan"),
    ("--tau 0.1 --objective reg", "--tau 0.1: the objective reg has no such temperature; leave it out"),
    ("--anchors 0", "--anchors 0: expected a number above 0, or all"),
    ("--anchors many", "--anchors many: expected a number above 0, or all"),
    ("--anchors 1000", "--anchors 1000: there are only 6 rows to draw them from; give --anchors all"),
    (
        "--objective 3q",
        "unknown objective '3q': choose one of 1q, 1q-reg-bn, 2q, reg, reg-bn, simreg, seed, supervised, crd, cc, "
        "package.module:function",
    ),
    (
        "--objective crd --negatives 0",
        "--negatives 0 with 6 training rows: CRD needs at least 1 negative and 2 rows",
    ),
    ("--objective cc --clusters 0", "--clusters 0: expected a number above 0"),
    ("--optimizer adam", "--optimizer: expected sgd, nesterov or adamw, found 'adam'; did you mean 'adamw'?"),
    ("--amp-dtype fp16", "--amp-dtype: expected fp32 or bf16, found 'fp16'; did you mean 'bf16'?"),
    ("--device tpu", "unknown device 'tpu': expected auto, cpu or cuda"),
    ("--weights w.pth", "--teacher and --weights belong to --live-teacher: give it too, or leave them out"),
    ("--epoch 3", "No such option '--epoch'. (Did you mean one of: '--epochs', '--teacher'?)"),
    ("--student resnet81", "unknown student 'resnet81'; did you mean 'resnet18'?"),
    ("--student timm/resnet1", "timm has no model 'resnet1'; did you mean 'resnet18'?"),
    (
        "--student torchvision/resnet1",
        "torchvision has no classification model 'resnet1'; did you mean 'resnet18'?",
    ),
    ("--student no.such:thing", "no.such:thing cannot be imported from here: No module named 'no'"),
    ("--student tests.golden.make:pupil", "module tests.golden.make has no function 'pupil'"),
    (
        "--student resnet18 --image-size 8",
        "resnet18 needs images of at least 16 px, found 8 px; give a larger --image-size or "
        "choose another student",
    ),
    ("--image-size 0", "--image-size: expected a number of at least 1, found 0"),
)
OTHER_FLAGS = [
    *with_flags(
        CACHE,
        ("--teacher demoo", "unknown teacher 'demoo'; did you mean 'demo'?"),
        (
            "--teacher timm/resnet18",
            "timm/resnet18 needs trained weights; download them and give --weights FILE",
        ),
        (
            "--teacher moco_v2_resnet50",
            "the teacher moco_v2_resnet50 needs its weights; get them from "
            "moco_v2_800ep_pretrain.pth.tar of github.com/facebookresearch/moco and give --weights "
            "FILE",
        ),
        (
            "--teacher pixels --weights {dataset}/dataset.json",
            "the teacher pixels takes no weights file; leave --weights out",
        ),
        ("--weights w.pth", "the weights file w.pth does not exist"),
        ("--weights {dataset}", "the weights file {dataset} does not exist"),
        ("--split vall", "{dataset} has no split 'vall'; did you mean 'val'?"),
        ("--batch-size 0", "--batch-size: expected a number of at least 1, found 0"),
        ("--image-size -1", "--image-size: expected a number of at least 0, found -1"),
        ("--device cuda:7", "unknown device 'cuda:7': expected auto, cpu or cuda"),
    ),
    *with_flags(
        "pretrain {dataset} r --student tests.golden.make:student --device cpu",
        ("--tau 0", "--tau: expected a number of at least 0.001, found 0.0"),
        ("--grayscale 2", "--grayscale: expected a number from 0 to 1, found 2.0"),
        ("--schedule own", "--schedule: expected step, step-30-60-80 or cosine, found 'own'"),
    ),
    *with_flags(
        "embed {dataset} o.npy",
        ("", "give either --run RUN or --teacher NAME"),
        ("--run r --teacher pixels", "give either --run RUN or --teacher NAME"),
        ("--run r --weights w.pth", "--weights belongs to --teacher; a run has its own weights"),
        ("--teacher pixels --batch-size 0", "--batch-size: expected a number of at least 1, found 0"),
    ),
    *with_flags(
        EVAL,
        (
            "--protocol knn",
            "no protocol 'knn': expected nn, linear, ca, few-label, transfer, fidelity, voc, voc-detection; did"
            " you mean 'nn'?",
        ),
        (
            "--protocol transfer",
            "{run} was trained on {dataset}, and transfer needs another dataset; use linear or few-label",
        ),
        ("--protocol nn,voc", "nn and VOC's protocols read different kinds of folders: run them separately"),
        (
            "--protocol voc",
            "there is no {dataset}/ImageSets/Main/train.txt: expected a folder like "
            "VOCdevkit/VOC2007, with both the trainval and the test archive unpacked",
        ),
        ("--layer conv9", "this Sequential has no layer 'conv9'"),
        (
            "--protocol few-label --labels some",
            "--labels 'some': expected a number of images such as 1shot, or a share such as 1pct",
        ),
        ("--draws 0", "--draws: expected a number of at least 1, found 0"),
        ("--epochs -3", "--epochs: expected a number of at least 1, found -3"),
        ("--ca-seeds 0", "--ca-seeds: expected a number of at least 1, found 0"),
    ),
    *with_flags(
        "report {run}",
        (
            "--out r.txt",
            "r.txt: name a page that ends in .html, or a Markdown file with results markers that ends in .md",
        ),
        ("", "Missing option '--out'."),
    ),
    *with_flags(
        "report nowhere",
        ("--out r.html", "there is no nowhere; name run folders, caches, metrics files or sweep recipes"),
    ),
    *with_flags(
        "export {run} s.txt",
        ("", "s.txt ends in '.txt': expected .safetensors or .onnx; rename it"),
        ("--format onnx", "s.txt ends in '.txt': expected .onnx; rename it"),
    ),
    *with_flags(
        "embed {pictures} o.zarr",
        (
            "--teacher pixels",
            "{pictures} is not a dataset, and only a dataset can be embedded into a store: give an OUT "
            "that ends in .npy or .parquet, or run `python cli.py pack {pictures} DATASET` first",
        ),
    ),
    *with_flags(
        "embed {pictures} o.csv",
        (
            "--teacher pixels",
            "{pictures} is not a dataset, and only a dataset can be embedded into a store: give an OUT "
            "that ends in .npy or .parquet, or run `python cli.py pack {pictures} DATASET` first",
        ),
    ),
    *with_flags(
        "completion",
        ("tcsh", "Invalid value for '{{bash|zsh|fish}}': 'tcsh' is not one of 'bash', 'zsh', 'fish'."),
    ),
    *with_flags(
        "cache convert {cache} out.zarr",
        ("--as float32", "--as float32: expected fp16, zstd, zstd:BITS, int8, int8-rotated or pca:DIM"),
        ("--as fp16", "--as fp16: {cache} is in float16 already"),
        ("--as pca:4096", "--as pca:4096: expected 2 dimensions or more, and fewer than the cache's 24"),
    ),
    *with_flags(
        "cache combine {cache} {cache} out.zarr",
        ("--weights 1", "--weights 1: expected 2 numbers, one for each cache"),
        ("--weights a,b", "--weights a,b: expected numbers separated by commas"),
    ),
    *with_flags(
        "cache verify {cache}",
        ("--rows 3", "--rows computes embeddings from the images: give their --dataset too"),
        ("--rows -3", "--rows: expected a number of at least 0, found -3"),
    ),
]
RECIPE = 'dataset = "d"\ncache = "c"\nruns = "r"\n'
RECIPES = of(
    "sweep s.toml",
    missing=(nothing, "cannot read the recipe s.toml: [Errno 2] No such file or directory: 's.toml'"),
    no_toml=(
        file("s.toml", "dataset: d"),
        "cannot read the recipe s.toml: Expected '=' after a key in a key/value pair (at line 1, column 8)",
    ),
    no_text=(
        file("s.toml", b"\xff\xfe\x00"),
        "cannot read the recipe s.toml: 'utf-8' codec can't decode byte 0xff in position 0: "
        "invalid start byte",
    ),
    without_a_dataset=(
        file("s.toml", 'cache = "c"\nruns = "r"'),
        "s.toml: expected a string for 'dataset', found None",
    ),
    unknown_key=(file("s.toml", RECIPE + 'grids = "x"'), "s.toml: unknown key 'grids'; did you mean 'grid'?"),
    an_unknown_setting=(
        file("s.toml", RECIPE + "[settings]\nepoch = 3"),
        "s.toml: distill: unknown setting 'epoch'; did you mean 'epochs'?",
    ),
    a_grid_of_no_list=(
        file("s.toml", RECIPE + "[grid]\nseed = 3"),
        "s.toml: grid: expected a list of values for 'seed', found 3",
    ),
    an_empty_grid=(
        file("s.toml", RECIPE + "[grid]\nseed = []"),
        "s.toml: grid: expected a list of values for 'seed', found []",
    ),
    another_command=(
        file("s.toml", RECIPE + '[[row]]\ncommand = "train"'),
        "s.toml: a row's command is distill or pretrain, found 'train'",
    ),
    two_rows_of_one_name=(
        file("s.toml", RECIPE + "[[row]]\n[[row]]"),
        "s.toml: two trials are named 'distill'; give the rows different names",
    ),
    protocols_of_numbers=(
        file("s.toml", RECIPE.replace("dataset", "protocol = [1]\ndataset")),
        "s.toml: expected a list of strings for 'protocol', found [1]",
    ),
    references_of_numbers=(
        file("s.toml", "references = [1]\n" + RECIPE),
        "s.toml: expected a list of strings for 'references', found [1]",
    ),
)
WRONG_SETTINGS = [*SETTINGS, *FLAGS, *OTHER_FLAGS, *RECIPES]
