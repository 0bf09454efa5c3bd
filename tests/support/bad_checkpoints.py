"""Weights files and run folders that are damaged or of another kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.support.bad_cases import CACHE, DISTILL, of
from tests.support.bad_files import (
    begun,
    edited,
    file,
    folder,
    holding,
    noise,
    nothing,
    run,
    safetensors,
    saved,
    student,
    truncated_weights,
    without,
)


def state_with(part: str, edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Return a function that edits one part of a run's resume.pt."""

    def change(place: Path) -> None:
        state = torch.load(place / "resume.pt", weights_only=True)
        torch.save({**state, part: edit(state[part])}, place / "resume.pt")

    return change


def fewer_parameters(state: dict[str, Any]) -> dict[str, Any]:
    (group,) = state["param_groups"]
    return {**state, "param_groups": [{**group, "params": group["params"][1:]}]}


def other_momentum(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "state": {number: {"momentum_buffer": torch.ones(7)} for number in state["state"]}}


def adamw(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an AdamW over as many parameters."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in state["param_groups"][0]["params"]]
    return torch.optim.AdamW(parameters).state_dict()


WEIGHTS = [
    *of(
        CACHE + " --weights w.pth",
        empty=(file("w.pth"), "is damaged"),
        noise=(file("w.pth", noise(500)), "w.pth"),
        a_web_page=(file("w.pth", "<!DOCTYPE html><html></html>"), "w.pth"),
        no_zip=(file("w.pth", b"PK\x03\x04" + noise(300)), "is damaged"),
        a_tenth=(truncated_weights("w.pth", 0.1), "is damaged"),
        a_half=(truncated_weights("w.pth", 0.5), "is damaged"),
        nearly_all=(truncated_weights("w.pth", 0.99), "is damaged"),
        a_list=(saved("w.pth", [1, 2]), "holds no state dict"),
        a_number=(saved("w.pth", 7), "holds no state dict"),
        of_no_tensors=(saved("w.pth", {"2.weight": 1.0}), "holds no state dict"),
        a_class=(saved("w.pth", Path("x")), "holds more than tensors"),
        of_nothing=(saved("w.pth", {}), "missing: 2.weight"),
        of_another_shape=(saved("w.pth", {"2.weight": torch.zeros(2, 2)}), "of another shape"),
        of_another_network=(saved("w.pth", {"fc9.weight": torch.zeros(2, 2)}), "unexpected"),
    ),
    *of(
        "teachers --check w.pth",
        missing=(nothing, "does not exist"),
        a_folder=(folder("w.pth"), "is damaged"),
        empty=(file("w.pth"), "is damaged"),
    ),
    *of(
        "embed {pictures} o.npy --device cpu --run s.safetensors",
        missing=(nothing, "does not exist"),
        empty=(file("s.safetensors"), "is damaged"),
        noise=(file("s.safetensors", noise(400)), "is damaged"),
        an_endless_header=(file("s.safetensors", b"\xff" * 8 + b"{}"), "is damaged"),
        half=(student(lambda data: data[: len(data) // 2]), "is damaged"),
        without_description=(safetensors({}), "lacks the metadata of a student"),
        described_by_a_list=(safetensors([1]), "is damaged"),
        described_by_numbers=(
            safetensors({"student": "resnet18", "image_size": 32, "mean": "1", "std": "1", "feature": ""}),
            "lacks the metadata of a student",
        ),
        without_tensors=(
            safetensors(
                {
                    "student": "tests.golden.make:student",
                    "image_size": "24",
                    "mean": "[0, 0, 0]",
                    "std": "[1, 1, 1]",
                    "feature": "x",
                }
            ),
            "missing: ",
        ),
    ),
]
RUN_FAULTS = {
    "a_record_of_nothing": (run(holding("config.json", "")), "cannot be read"),
    "a_record_of_noise": (run(holding("config.json", noise(99))), "cannot be read"),
    "a_record_of_a_list": (run(edited("config.json", lambda d: [d])), "format None"),
    "of_format_2": (run(edited("config.json", lambda d: d.update(format=2))), "format 2"),
    "without_settings": (run(edited("config.json", lambda d: d.pop("config") and None)), "no config"),
    "without_epochs": (
        run(edited("config.json", lambda d: d["config"].pop("epochs") and None)),
        "lack epochs",
    ),
    "without_identities": (run(edited("config.json", lambda d: d.update(made_of=[]))), "no made_of"),
}
RUNS = [
    *of("eval run --dataset {dataset} --protocol nn --device cpu", **RUN_FAULTS),
    *of(
        "export run s.safetensors",
        missing=(nothing, "does not exist"),
        without_a_student=(run(without("student.safetensors")), "does not exist"),
        a_student_of_noise=(run(holding("student.safetensors", noise(99))), "is damaged"),
        a_record_of_noise=RUN_FAULTS["a_record_of_noise"],
        of_format_2=RUN_FAULTS["of_format_2"],
    ),
    *of(
        "report run --out r.html",
        a_record_of_noise=RUN_FAULTS["a_record_of_noise"],
        metrics_of_noise=(run(holding("metrics.json", noise(99))), "is not JSON"),
        metrics_of_format_2=(run(edited("metrics.json", lambda d: d.update(format=2))), "has format 2"),
        metrics_of_nothing=(run(edited("metrics.json", lambda d: {"format": 1})), "has no name"),
        metrics_of_words=(
            run(edited("metrics.json", lambda d: d["metrics"].update(nn1="x"))),
            "finite number",
        ),
        metrics_from_nowhere=(run(edited("metrics.json", lambda d: d.update(provenance=[]))), "provenance"),
    ),
    *of(
        DISTILL.replace(" r ", " run "),
        a_record_of_noise=RUN_FAULTS["a_record_of_noise"],
        a_checkpoint_of_noise=(begun(holding("resume.pt", noise(99))), "resume.pt"),
        a_checkpoint_of_something_else=(
            begun(lambda place: torch.save({"step": 1}, place / "resume.pt")),
            "is not a checkpoint of a run",
        ),
        a_checkpoint_of_a_list=(
            begun(lambda place: torch.save([1], place / "resume.pt")),
            "no training state",
        ),
        an_optimiser_of_nothing=(
            begun(state_with("optimizer", lambda old: {})),
            "does not fit this run ('param_groups')",
        ),
        an_optimiser_of_fewer=(
            begun(state_with("optimizer", fewer_parameters)),
            "does not fit this run (loaded state",
        ),
        an_optimiser_of_other_shapes=(
            begun(state_with("optimizer", other_momentum)),
            "does not fit this run (the optimizer's momentum_buffer of a parameter: expected (",
        ),
        another_optimiser=(
            begun(state_with("optimizer", adamw)),
            "does not fit this run (the state of another optimizer)",
        ),
        a_network_of_words=(begun(state_with("network", lambda old: "x")), "does not fit this run"),
        an_objective_of_another=(
            begun(state_with("objective", lambda old: {"x": torch.ones(1)})),
            "does not fit this run",
        ),
        a_step_of_words=(begun(state_with("step", lambda old: "x")), "does not fit this run"),
    ),
    *of(
        DISTILL.replace(" r ", " run ") + " --seed 1",
        of_other_settings=(run(lambda place: None), "holds another run"),
    ),
]
CHECKPOINTS = [*WEIGHTS, *RUNS]
