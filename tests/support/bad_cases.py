"""Cases of bad input: a name, a command, a function that makes the bad files, and a part of the expected message.

In a command, {dataset}, {cache}, {run} and {pictures} are sound; other names lie in the case's own folder.
"""

from tests.support.bad_files import Make, nothing

Case = tuple[str, str, Make, str]
TEACHER = "tests.golden.make:teacher"
# the settings of the golden run, so that the fault of a case is the only one
DISTILL = (
    "distill {dataset} {cache} r --student tests.golden.make:student --image-size 24 --epochs 2 --batch-size 3 "
    "--anchors 4 --lr 0.1 --amp-dtype fp32 --device cpu --inexact"
)
CACHE = "cache-teacher {dataset} c.zarr --device cpu --teacher " + TEACHER
EVAL = "eval {run} --dataset {dataset} --device cpu"


def of(command: str, **cases: tuple[Make, str]) -> list[Case]:
    """Return one case for each bad input of a command."""
    return [
        (f"{command.split()[0]}: {name.replace('_', ' ')}", command, make, message)
        for name, (make, message) in cases.items()
    ]


def with_flags(command: str, *flags: tuple[str, str]) -> list[Case]:
    """Return one case for each bad flag of a command whose other input is sound."""
    return [
        (f"{command.split()[0]} {given}", f"{command} {given}", nothing, message) for given, message in flags
    ]
