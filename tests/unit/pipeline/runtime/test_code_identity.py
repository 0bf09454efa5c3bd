"""Two callables have one hash exactly if they do the same: code, settings and what they refer to, not names."""

import functools
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from pipeline.errors import PipelineError
from pipeline.runtime.code_identity import PYTHON, code_sha256, is_same_python

SOURCE = """
import math
import numpy as np
STRENGTH = 2.0
def helper(x, by=1):
    return x + by
class Settings:
    def __init__(self): self.size = 3
SETTINGS = Settings()
def prepare(x):
    '''Text.'''
    values = [helper(each) * STRENGTH for each in x]
    return math.sqrt(len(values)) * SETTINGS.size
"""


def function_of(source: str, name: str = "prepare") -> Callable:
    module = types.ModuleType("mine")
    exec(source, module.__dict__)
    return vars(module)[name]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("len(values)", "len(values) + 1"),
        ("* STRENGTH", "/ STRENGTH"),
        ("STRENGTH = 2.0", "STRENGTH = 2.5"),
        ("by=1", "by=2"),
        ("x + by", "x - by"),
        ("self.size = 3", "self.size = 4"),
        ("math.sqrt", "math.exp"),
        ("import numpy as np", "import torch as np"),
    ],
)
def test_a_change_that_can_matter_changes_the_hash(old: str, new: str) -> None:
    assert old in SOURCE
    same = code_sha256(function_of(SOURCE)) == code_sha256(function_of(SOURCE.replace(old, new)))
    assert same == (old == "import numpy as np")  # not read by prepare


@pytest.mark.parametrize(
    ("old", "new"), [("'''Text.'''", "'''Other.'''"), ("def prepare", "\n# why\n\ndef prepare")]
)
def test_text_does_not_change_it(old: str, new: str) -> None:
    assert code_sha256(function_of(SOURCE)) == code_sha256(function_of(SOURCE.replace(old, new)))


def closure(by: int) -> Callable:
    return lambda x: x + by


class Call:
    def __init__(self, by: object) -> None:
        self.by = by

    def __call__(self, x: int) -> object:
        return x, self.by

    def __repr__(self) -> str:
        return "Call()"


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by: int) -> None:
        self.by = by


BUILDERS: list[tuple[Callable, object, object]] = [
    (transforms.Lambda, closure(1), closure(2)),
    (lambda f: transforms.Compose([transforms.ToTensor(), transforms.Lambda(f)]), closure(1), closure(2)),
    (v2.Lambda, closure(1), closure(2)),
    (lambda by: functools.partial(max, by), 1, 2),
    (Call, 1, 2),
    (lambda by: Call(by).__call__, 1, 2),
    (lambda by: Call(torch.full((2,), by)), 1.0, 2.0),
    (lambda by: Call(np.full(2, by)), 1.0, 2.0),
    (lambda by: Call({"a": {by}}), 1, 2),
    (Slotted, 1, 2),
    (re.compile, "a", "b"),
    (lambda by: Image.new("L", (2, 2), by), 1, 2),
    (lambda by: transforms.Normalize(by, 1.0), 0.1, 0.2),
    (lambda by: nn.MaxPool2d(by), 1, 2),
]


@pytest.mark.parametrize(("build", "one", "two"), BUILDERS)
def test_values_change_it_where_the_repr_may_not(build: Callable, one: object, two: object) -> None:
    assert code_sha256(build(one)) == code_sha256(build(one))
    assert code_sha256(build(one)) != code_sha256(build(two))


def test_it_is_the_same_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        SOURCE + "LEVELS = {'a', 'b', 'c'}\ndef other(x): return x in LEVELS, prepare(x)\n"
    )
    code = "from mine import other; from pipeline.runtime.code_identity import code_sha256; print(code_sha256(other))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": f"{tmp_path}:{Path.cwd()}", "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "01"  # the second imports compiled bytecode
    }
    assert len(found) == 1


def test_weights_hooks_and_mode_do_not_count() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    tensors = [*module.parameters(), *module.buffers()]
    before = code_sha256(module, weights=tensors)
    with torch.no_grad():
        module[0].weight += 1
    assert code_sha256(module.eval(), weights=tensors) == before
    assert code_sha256(module) != before
    numbered = [module.register_forward_hook(print) for _ in range(2)]
    with_two = code_sha256(module, weights=tensors)
    numbered[0].remove()
    module.register_forward_hook(print)
    assert code_sha256(module, weights=tensors) == with_two != before


def test_what_hides_its_settings_is_refused_or_counts_by_its_type() -> None:
    hidden = (each for each in "ab")
    with pytest.raises(PipelineError, match=r"a builtins\.generator does not show its settings"):
        code_sha256(Call(hidden))
    assert code_sha256(Call(hidden), strict=False) == code_sha256(Call(iter_of("c")), strict=False)


def iter_of(text: str) -> object:
    return (each for each in text)


def test_a_long_chain_is_no_recursion() -> None:
    chain: object = None
    for _ in range(5000):
        chain = [chain]
    assert code_sha256(chain).startswith(f"{PYTHON}:")


def test_only_hashes_of_one_python_are_compared() -> None:
    assert is_same_python(code_sha256(len))
    assert not any(map(is_same_python, ("2.7:abc", None, "")))
