"""What the verbs of the command line share: how errors are told, exit codes, options that several have."""

import functools
import sys
from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar

import typer

from realm_ds.errors import REQUEUE, ConfigError, Preempted, RealmError

P = ParamSpec("P")
R = TypeVar("R")

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: something went wrong; the settings are wrong; Ctrl-C. Asked to end by a signal: errors.REQUEUE."""

Source = Annotated[
    str | None,
    typer.Option(
        "--config", "-c",
        help="A YAML file, a recipe (realm-base, demo, demo-quick) or a run folder. Left out: the run folder's own.",
    ),
]  # fmt: skip
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SETTING=VALUE]...", help="Settings that win over the config's.")
]


def group(about: str) -> typer.Typer:
    """A verb that has verbs of its own."""
    return typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """A verb whose errors, where a person can mend them, are one line on stderr and an exit code."""

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return function(*arguments, **options)
        except Preempted as error:
            print(f"realm-ds: {error}", file=sys.stderr, flush=True)
            raise SystemExit(REQUEUE) from None
        except RealmError as error:
            print(f"realm-ds: {error}", file=sys.stderr, flush=True)
            raise SystemExit(MISUSED if isinstance(error, ConfigError) else FAILED) from None
        except OSError as error:
            if error.filename is None:  # of no file or folder that a person could look at: our mistake
                raise
            print(
                f"realm-ds: cannot use {error.filename}: {error.strerror}; mend that or name another", file=sys.stderr
            )
            raise SystemExit(FAILED) from None
        except KeyboardInterrupt:
            print("realm-ds: interrupted", file=sys.stderr, flush=True)
            raise SystemExit(INTERRUPTED) from None

    return run


def refuse_without_effect(context: typer.Context, *names: str, because: str) -> None:
    """Raise ConfigError if any of the options was given, by the names of their parameters, `because` none is heeded."""
    given = [
        parameter.metavar if parameter.param_type_name == "argument" and parameter.metavar else parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(parameter.name).name != "DEFAULT"  # type: ignore[union-attr]
    ]
    if given:
        raise ConfigError(f"{', '.join(given)} would be ignored: {because}")
