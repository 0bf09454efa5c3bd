"""Layouts of the published checkpoints: MoCo, SwAV, SimCLR, DINO, DINOv2, CompRess."""

from dataclasses import replace

from pipeline.models.state_dict_layout import LINEAR, NORM, Layout, Rename, own_names

RESNET = rf"(conv1|bn1|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01])){NORM}"


def compress(*heads: str) -> Layout:
    """Return the layout of a student saved by the authors of CompRess. heads: names of linear layers to ignore."""
    return replace(own_names(*heads), title="CompRess's student", key="model")


def after(prefix: str) -> Rename:
    """Return a renaming that removes a prefix, which every name must have."""
    return lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None


def _flat_names() -> dict[str, str]:
    """Map SimCLR's flat names, which number layers in the order of their creation, to torchvision's.

    The stem comes first; the first block of a stage creates its downsampling before its three convolutions.
    """
    convolutions, norms = ["conv1"], ["bn1"]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}."
            if block == 0:
                convolutions.append(f"{prefix}downsample.0")
                norms.append(f"{prefix}downsample.1")
            convolutions += [f"{prefix}conv{number}" for number in (1, 2, 3)]
            norms += [f"{prefix}bn{number}" for number in (1, 2, 3)]
    flat = {"conv2d": convolutions, "batch_normalization": norms}
    return {
        f"{kind}_{place}" if place else kind: layer
        for kind, layers in flat.items()
        for place, layer in enumerate(layers)
    }


FLAT_NAMES = _flat_names()


def _from_flat(name: str) -> str | None:
    layer, _, tensor = name.partition(".")
    return f"{FLAT_NAMES[layer]}.{tensor}" if layer in FLAT_NAMES else None


def _from_swiglu(name: str) -> str | None:
    """Rename w12 and w3 of DINOv2's giant to timm's fc1 and fc2."""
    if ".mlp.fc" in name:
        return None
    return name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")


def _from_feats(name: str) -> str | None:
    """Rename fc6 and fc7 of CompRess's AlexNet, feats.0 and feats.2, to torchvision's, which count dropout too."""
    layer, dot, tensor = name.rpartition(".")
    if layer.startswith("classifier."):
        return None
    numbers = {"feats.0": "classifier.1", "feats.2": "classifier.4"}
    return f"{numbers.get(layer, layer)}{dot}{tensor}"


MOCO = Layout(
    title="MoCo's query encoder",
    rename=after("encoder_q."),
    unused=rf"encoder_q\.fc\.[02]{LINEAR}|encoder_k\.({RESNET}|fc\.[02]{LINEAR})|queue(_ptr)?",
    signature=r"encoder_q\.",
)


SWAV = Layout(
    title="SwAV's names, torchvision's with a projection head",
    unused=rf"projection_head\.([03]{LINEAR}|1{NORM})|prototypes(\.prototypes\d+)?\.weight",
    signature=r"projection_head\.|prototypes\.",
)


SIMCLR_FLAT = Layout(
    title="SimCLR's flat names",
    rename=_from_flat,
    unused=rf"fc{LINEAR}",
    signature=r"conv2d(_\d+)?\.",
)


DINO = Layout(title="DINO's backbone alone")


DINO_FULL = Layout(
    title="DINO's teacher, a full checkpoint",
    rename=after("backbone."),
    unused=rf"head\.(mlp\.\d+{NORM}|mlp{LINEAR}|last_layer\.weight(_[gv])?)",
    signature=r"backbone\.",
)


DINOV2 = Layout(title="DINOv2's names", unused="mask_token", signature=r"mask_token|blocks\.0\.ls1\.")


DINOV2_SWIGLU = Layout(
    title="DINOv2's names, with SwiGLU",
    rename=_from_swiglu,
    unused="mask_token",
    signature=r"blocks\.0\.mlp\.w12\.",
)


COMPRESS_ALEXNET = Layout(
    title="CompRess's AlexNet, with fc6 and fc7 in feats",
    rename=_from_feats,
    unused=rf"fc{LINEAR}",
    signature=r"feats\.",
    key="model",
)
