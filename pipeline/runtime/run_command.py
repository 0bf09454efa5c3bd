"""From a command to its exit code: errors become one sentence on stderr."""

import itertools
import os
import sys
from pathlib import Path

import click

from cache.errors import StoreError
from cache.user_folder import URL, as_typed
from pipeline.errors import PipelineError, WrongUse
from pipeline.runtime.signals import terminated_as_interrupted
from pipeline.runtime.terminal import print_any_text

INTERRUPTED = 130
RESUMED = ("pack", "pretrain", "cache-teacher", "repair", "distill", "eval", "sweep", "combine")


def run_command(main: click.Command, arguments: list[str] | None) -> int:
    """Run a command and return its exit code: 0 success, 1 failure, 2 wrong use, 130 interrupted.

    An error is printed as one sentence. arguments: None for those of the process.
    """
    print_any_text()
    try:
        with terminated_as_interrupted():
            main(arguments, standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (PipelineError, StoreError) as error:
        click.echo(f"error: {as_typed(error)}", err=True)
        code = 2 if isinstance(error, WrongUse) else 1
        if arguments is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            exit_at_once(code)  # the end of NCCL may wait for ranks that wait for this one
        return code
    except (KeyboardInterrupt, click.Abort):
        goes_on = resumes(sys.argv[1:] if arguments is None else arguments)
        click.echo(f"\ninterrupted{'; the same command goes on from here' if goes_on else ''}", err=True)
        if arguments is None:
            # Not sys.exit: destructors of objects that were being built would print errors, and a library's exit
            # handler may wait for a lock that the interrupted code had taken.
            exit_at_once(INTERRUPTED)
        return INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise
        click.echo(f"error: cannot use {os.fsdecode(error.filename)}: {error.strerror}", err=True)
        return 1
    return 0


def exit_at_once(code: int) -> None:
    """End this process without the exit handlers and destructors of any library."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def resumes(arguments: list[str]) -> bool:
    """Whether an interrupted command goes on when it is run again; one that writes a file at its end starts over."""
    name = "".join(arguments[1:2] if arguments[:1] == ["cache"] else arguments[:1])
    writes_store = name == "embed" and any(Path(text).suffix == ".zarr" for text in arguments)
    forms = [value for flag, value in itertools.pairwise(arguments) if flag == "--as"]
    forms += [text.removeprefix("--as=") for text in arguments if text.startswith("--as=")]
    converts = name == "convert" and not any(form.startswith("zstd") for form in forms)
    copies = any(URL.match(text) for text in arguments)
    return name in RESUMED or writes_store or converts or copies
