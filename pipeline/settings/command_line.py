"""From settings to click's commands: each field of a settings class is an option or an argument."""

import dataclasses
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.errors import suggest
from pipeline.settings.field import flag_of, options
from pipeline.settings.local_path import local_path
from pipeline.settings.many_students import configs_of
from pipeline.settings.toml_file import from_toml, without_none


class Commands(click.Group):
    """A group that lists its commands in the order of use and suggests the nearest name for a mistyped one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise click.UsageError(f"no command {args[0]!r}{suggest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


class Command(click.Command):
    """A command whose help also explains its arguments, which click leaves to the text."""

    def __init__(self, *args: Any, arguments: Sequence[tuple[str, str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.arguments = arguments

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(self.arguments)
        super().format_options(ctx, formatter)


class LocalPath(click.ParamType):
    """A path on this machine; ~ is the home folder. url: or a URL, for which the folder of its copy stands."""

    name = "path"

    def __init__(self, url: bool = False) -> None:
        self.url = url

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return local_path(str(value), url=self.url)


class CommaList(click.ParamType):
    """Values separated by commas."""

    name = "A,B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return tuple(value.split(",")) if isinstance(value, str) else tuple(value)


def command(group: click.Group, name: str, config: type) -> Callable[[Callable[..., None]], click.Command]:
    """Add a command with the fields of `config` as its options; its body is called with one config per student."""

    def decorate(body: Callable[..., None]) -> click.Command:
        def run(**values: Any) -> None:
            body(*configs_of(config, merged(config, values)))

        file_help = "TOML file with settings; flags take precedence"
        file_option = click.Option(["--config"], type=LocalPath(), metavar="FILE.toml", help=file_help)
        parameters = [*(parameter(config, field) for field in options(config)), file_option]
        explained = [
            (field.name.upper(), field.metadata["help"])
            for field in options(config)
            if field.metadata.get("argument")
        ]
        made = Command(name, callback=run, params=parameters, help=body.__doc__, arguments=explained)
        group.add_command(made)
        return made

    return decorate


def merged(config: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of all options: flags take precedence over the settings file, and that over the defaults."""
    file = values.pop("config")
    given = {
        name: value
        for name, value in values.items()
        if click.get_current_context().get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    return {**values, **(from_toml(config, file) if file else {}), **given}


def parameter(config: type, field: dataclasses.Field[Any]) -> click.Parameter:
    """Return the click option or argument for a field."""
    hint, required = typing.get_type_hints(config)[field.name], field.default is dataclasses.MISSING
    path = LocalPath(url=bool(field.metadata["url"]))
    if field.metadata.get("argument"):
        nargs = -1 if typing.get_origin(hint) is tuple else 1
        return click.Argument([field.name], type=path, nargs=nargs, required=required)
    flag = flag_of(field)
    shared: dict[str, Any] = {"help": field.metadata["help"], "show_default": True, "required": required}
    if not required:
        shared["default"] = field.default
    if field.metadata["repeatable"]:
        return click.Option([flag, field.name], multiple=True, **{**shared, "default": (field.default,)})
    if hint is bool:
        return click.Option([flag, field.name], is_flag=True, **shared)
    return click.Option([flag, field.name], **shared, **click_type(hint, field))


def click_type(hint: Any, field: dataclasses.Field[Any]) -> dict[str, Any]:
    """Return the click type for a field's annotation, with a metavar where it needs one."""
    if field.metadata["choices"]:
        return {"metavar": f"[{'|'.join(field.metadata['choices'])}]"}
    hint = without_none(hint)
    if typing.get_origin(hint) is not tuple:
        return {"type": LocalPath(url=bool(field.metadata["url"])) if hint is Path else hint}
    is_range = typing.get_args(hint)[0] is float
    return {"type": (float, float), "metavar": "LOW HIGH"} if is_range else {"type": CommaList()}
