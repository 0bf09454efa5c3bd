"""State dicts as the authors publish them, made from a backbone with torchvision's, timm's or DINO's names."""

from argparse import Namespace
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.teachers.published import PUBLISHED

State = dict[str, Tensor]
Held = dict[str, object]


def linear(name: str) -> State:
    return {f"{name}.weight": torch.zeros(2, 2), f"{name}.bias": torch.zeros(2)}


def norm(name: str) -> State:
    return {
        **linear(name),
        f"{name}.running_mean": torch.zeros(2),
        f"{name}.running_var": torch.ones(2),
        f"{name}.num_batches_tracked": torch.tensor(3),
    }


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def bare(state: State) -> Held:
    return dict(state)


def with_classifier(state: State) -> Held:
    return {"state_dict": {**state, **linear("fc")}}


def moco(state: State) -> Held:
    heads = {**linear("fc.0"), **linear("fc.2")}
    both = {**prefixed("encoder_q.", {**state, **heads}), **prefixed("encoder_k.", {**state, **heads})}
    every = {**both, "queue": torch.zeros(3, 3), "queue_ptr": torch.zeros(1)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": prefixed("module.", every)}


def moco_without_module(state: State) -> Held:
    return {"state_dict": prefixed("encoder_q.", state)}


def swav(state: State) -> Held:
    heads = {**linear("projection_head.0"), **norm("projection_head.1"), **linear("projection_head.3")}
    return dict(prefixed("module.", {**state, **heads, "prototypes.weight": torch.zeros(3, 2)}))


def simclr_flat(state: State) -> Held:
    """Number the layers in the order of their creation: in a stage's first block the shortcut comes first."""
    order = ["stem"]
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(blocks):
            inner = [f"layer{stage}.{block}.{layer}" for layer in ("conv1", "conv2", "conv3")]
            order += ([f"layer{stage}.{block}.shortcut"] if block == 0 else []) + inner
    names = {}
    for place, layer in enumerate(order):
        number = f"_{place}" if place else ""
        stem = layer == "stem"
        convolution = "conv1" if stem else layer.replace("shortcut", "downsample.0")
        batch = "bn1" if stem else layer.replace("shortcut", "downsample.1").replace("conv", "bn")
        names[convolution], names[batch] = f"conv2d{number}", f"batch_normalization{number}"
    flat = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        flat[f"{names[layer]}.{kind}"] = tensor
    return {"state_dict": {**flat, **linear("fc")}}


def dino_full(state: State) -> Held:
    last = {"head.last_layer.weight_g": torch.ones(3, 1), "head.last_layer.weight_v": torch.ones(3, 2)}
    head = {**linear("head.mlp.0"), **linear("head.mlp.2"), **linear("head.mlp.4"), **last}
    every = prefixed("module.", {**prefixed("backbone.", state), **head})
    return {"student": every, "teacher": every, "optimizer": {}, "epoch": 3, "args": Namespace(arch="x")}


def dinov2(state: State) -> Held:
    return {"mask_token": torch.zeros(1, 2), **state}


def dinov2_giant(state: State) -> Held:
    names = {name: name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.") for name in state}
    return {"mask_token": torch.zeros(1, 2), **{names[name]: tensor for name, tensor in state.items()}}


def compress(state: State) -> Held:
    model = prefixed("module.", {**state, **linear("fc")})
    return {"opt": Namespace(arch="resnet18", tau=0.04), "model": model, "optimizer": {}, "epoch": 130}


def compress_alexnet_feats(state: State) -> Held:
    places = {"classifier.1": "feats.0", "classifier.4": "feats.2"}
    moved = {name: name.rpartition(".") for name in state}
    return compress(
        {f"{places.get(layer, layer)}.{kind}": state[name] for name, (layer, _, kind) in moved.items()}
    )


FILES: dict[str, tuple[Callable[[State], Held], ...]] = {
    "moco_v2_resnet50": (moco, moco_without_module),
    **{name: (swav,) for name in PUBLISHED if name.startswith("swav_")},
    **{name: (with_classifier, simclr_flat) for name in PUBLISHED if name.startswith("simclr_")},
    **{name: (bare, dino_full) for name in PUBLISHED if name.startswith("dino_")},
    **{name: (dinov2,) for name in PUBLISHED if name.startswith("dinov2_")},
    "dinov2_vitg14": (dinov2_giant,),
    **{name: (compress,) for name in PUBLISHED if name.startswith("compress_")},
    "compress_alexnet": (compress, compress_alexnet_feats),
}
CASES = [(name, file) for name, files in FILES.items() for file in files]
