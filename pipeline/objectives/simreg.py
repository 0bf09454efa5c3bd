"""SimReg: regression behind a deep head (Navaneet, Koohpayegani, Tejankar, Pirsiavash, BMVC 2021)."""

from torch import nn

from pipeline.objectives.regression import Regression


class SimReg(Regression):
    """`Regression` with four linear layers between the student's feature and the teacher's.

    The layers are d -> 2d -> d -> 2d -> teacher_dim: a projection and a prediction of two each, with BatchNorm
    and ReLU inside of both and nothing between them.
    """

    def describe(self) -> str:
        return "SimReg, 4 layers"

    def head(self) -> nn.Module:
        width = self.student_dim
        return nn.Sequential(*two_layers(width, width), *two_layers(width, self.teacher_dim))


def two_layers(width: int, out: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear: (B, width) -> (B, 2 width) -> (B, out)."""
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.BatchNorm1d(2 * width),
        nn.ReLU(inplace=True),
        nn.Linear(2 * width, out),
    )
