"""What a case of bad input is: its name, a command, the maker of what is bad, and a part of the sentence expected.

In a command {dataset}, {cache}, {run} and {pictures} are sound; other names are of the case's own folder.
"""

from tests.support.bad_files import Make, nothing

Case = tuple[str, str, Make, str]
TEACHER = "tests.golden.make:teacher"
# the settings of the golden run, so that only what a case changes is in the way
DISTILL = (
    "distill {dataset} {cache} r --student tests.golden.make:student --image-size 24 --epochs 2 --batch-size 3 "
    "--anchors 4 --lr 0.1 --amp-dtype fp32 --device cpu --inexact"
)
CACHE = "cache-teacher {dataset} c.zarr --device cpu --teacher " + TEACHER
EVAL = "eval {run} --dataset {dataset} --device cpu"


def of(command: str, **cases: tuple[Make, str]) -> list[Case]:
    """One command on many things."""
    return [
        (f"{command.split()[0]}: {name.replace('_', ' ')}", command, make, says)
        for name, (make, says) in cases.items()
    ]


def with_flags(command: str, *flags: tuple[str, str]) -> list[Case]:
    """A command on sound things with one flag that cannot be."""
    return [(f"{command.split()[0]} {given}", f"{command} {given}", nothing, says) for given, says in flags]
