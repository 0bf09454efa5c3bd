"""SimReg (Navaneet, Koohpayegani, Tejankar, Pirsiavash, BMVC 2021): regression through an MLP head."""

from torch import nn

from pipeline.objectives.regression import Regression


class SimReg(Regression):
    """`Regression` with a head of four linear layers, d -> 2d -> d -> 2d -> teacher_dim.

    These are two MLPs of two layers, a projector and a predictor, each with BatchNorm and ReLU between its layers.
    """

    def describe(self) -> str:
        return "SimReg, 4 layers"

    def head(self) -> nn.Module:
        width = self.student_dim
        return nn.Sequential(*two_layers(width, width), *two_layers(width, self.teacher_dim))


def two_layers(width: int, out: int) -> nn.Sequential:
    """Return Linear, BatchNorm, ReLU, Linear: (B, width) -> (B, 2 width) -> (B, out)."""
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.BatchNorm1d(2 * width),
        nn.ReLU(inplace=True),
        nn.Linear(2 * width, out),
    )
