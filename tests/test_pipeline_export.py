"""What is exported loads into the plain architecture."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from pipeline.checkpoints import save_student
from pipeline.errors import WrongUse
from pipeline.export import export_student
from pipeline.students import build_student


@pytest.mark.parametrize("half", [False, True])
def test_the_exported_student_is_torchvisions_network(tmp_path: Path, half: bool) -> None:
    student = build_student("resnet18", image_size=32, seed=0)
    save_student(tmp_path, student, {})
    export_student(tmp_path, tmp_path / "out.safetensors", half=half)
    plain = torchvision.models.resnet18()
    plain.fc = torch.nn.Identity()
    plain.load_state_dict(load_file(tmp_path / "out.safetensors"))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # half precision keeps 11 bits of each weight; features of this net are about 1
    tolerance = 2e-2 if half else 0
    torch.testing.assert_close(plain.eval()(images), student.eval()(images), atol=tolerance, rtol=tolerance)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"expected .safetensors"):
        export_student(tmp_path, tmp_path / "out.bin", half=False)
