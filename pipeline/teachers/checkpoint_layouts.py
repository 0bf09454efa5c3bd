"""How the published checkpoints name their tensors: MoCo, SwAV, SimCLR, DINO, DINOv2, CompRess."""

from dataclasses import replace

from pipeline.models.state_dict_layout import LINEAR, NORM, Layout, Rename, plain

RESNET = rf"(conv1|bn1|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01])){NORM}"


def compress(*heads: str) -> Layout:
    """A student as the authors of CompRess save it; the heads are linear layers, by their names."""
    return replace(plain(*heads), title="CompRess's student", place="model")


def after(prefix: str) -> Rename:
    """What follows the prefix, which every name must have."""
    return lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None


def _flat_names() -> dict[str, str]:
    """SimCLR's flat names of layers in the order of their creation, and torchvision's.

    The stem comes first; a stage's first block makes its downsampling before its three convolutions.
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
    """DINOv2's giant calls w12 and w3 what timm calls fc1 and fc2."""
    if ".mlp.fc" in name:
        return None
    return name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")


def _with_dropouts_places(name: str) -> str | None:
    """AlexNet's linear layers where torchvision's stand, between dropouts."""
    layer, dot, tensor = name.rpartition(".")
    if not layer.startswith("classifier."):
        return name
    places = {"classifier.0": "classifier.1", "classifier.2": "classifier.4"}
    return f"{places[layer]}{dot}{tensor}" if layer in places else None


MOCO = Layout(
    title="MoCo's query encoder",
    rename=after("encoder_q."),
    head=rf"encoder_q\.fc\.[02]{LINEAR}|encoder_k\.({RESNET}|fc\.[02]{LINEAR})|queue(_ptr)?",
    mark=r"encoder_q\.",
)


SWAV = Layout(
    title="SwAV's names, torchvision's with a projection head",
    head=rf"projection_head\.([03]{LINEAR}|1{NORM})|prototypes(\.prototypes\d+)?\.weight",
    mark=r"projection_head\.|prototypes\.",
)


SIMCLR_FLAT = Layout(
    title="SimCLR's flat names",
    rename=_from_flat,
    head=rf"fc{LINEAR}",
    mark=r"conv2d(_\d+)?\.",
)


DINO = Layout(title="DINO's backbone alone")


DINO_FULL = Layout(
    title="DINO's teacher, a full checkpoint",
    rename=after("backbone."),
    head=rf"head\.(mlp\.\d+{NORM}|mlp{LINEAR}|last_layer\.weight(_[gv])?)",
    mark=r"backbone\.",
)


DINOV2 = Layout(title="DINOv2's names", head="mask_token", mark=r"mask_token|blocks\.0\.ls1\.")


DINOV2_SWIGLU = Layout(
    title="DINOv2's names, with SwiGLU", rename=_from_swiglu, head="mask_token", mark=r"blocks\.0\.mlp\.w12\."
)


COMPRESS_BARE_ALEXNET = Layout(
    title="CompRess's student, without places for dropout",
    rename=_with_dropouts_places,
    head=rf"(fc|classifier\.4){LINEAR}",
    mark=r"classifier\.0\.",
    place="model",
)
