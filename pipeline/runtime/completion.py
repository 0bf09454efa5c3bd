"""`completion`: the shell function `anchorage`, with completion of commands and flags."""

import shlex
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

NAME = "anchorage"
CLI = Path(__file__).resolve().parents[2] / "cli.py"
ANSWERS_WHEN_SET = "_CLI_PY_COMPLETE"  # the variable that click looks at, from the name of cli.py
FUNCTIONS = {
    "bash": '{name}() {{ {command} "$@"; }}',
    "zsh": '{name}() {{ {command} "$@"; }}',
    "fish": "function {name}; {command} $argv; end",
}


@click.command("completion")
@click.argument("shell", type=click.Choice([*FUNCTIONS]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print completion for a shell, and a short name.

    It defines the function `anchorage`, for this cli.py from any folder:

    \b
    eval "$(python cli.py completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root().command
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(CLI))}"
    script = kind(root, {}, NAME, ANSWERS_WHEN_SET).source()
    # click's script asks the command itself, but a function is not found by `env`
    for asked in (f"{shell}_complete $1", f"{shell}_complete {NAME}", f"(commandline -t) {NAME}"):
        script = script.replace(asked, asked.rpartition(" ")[0] + f" {command}")
    click.echo(f"{FUNCTIONS[shell].format(name=NAME, command=command)}\n{script}")
