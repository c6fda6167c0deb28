"""Wrong usage in plain words: what the parser says in its own, and commands that are given a secret by mistake."""

from typing import Any

import typer
from typer._click.exceptions import BadParameter, ClickException, NoSuchOption, UsageError
from typer.core import TyperCommand

_NUMBERS = frozenset(
    {
        "int_parsing",
        "int_parsing_size",
        "int_from_float",
        "int_type",
        "float_parsing",
        "float_type",
        "finite_number",
        "greater_than_equal",
        "less_than_equal",
    }
)


class ReadsSecret(TyperCommand):
    """A command that reads a secret: what stands on the line in its place is never repeated."""

    read_from = "the value is no argument: it is asked for, or read from standard input or from --file"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        left = super().parse_args(ctx, args)
        if left and not ctx.resilient_parsing:
            raise UsageError(f"{self.read_from}; replace it if others may have seen this line", ctx)
        return left


class ReadsToken(ReadsSecret):
    """The same for a token."""

    read_from = "the token is no argument: it is asked for, or read from standard input, --token or COXSWAIN_TOKEN"


def in_plain_words(error: ClickException) -> ClickException:
    """The error with what was given and what is allowed in place of the words of the library that checks numbers."""
    cause: Any = error.__cause__
    if isinstance(error, BadParameter) and error.param is not None and hasattr(cause, "errors"):
        first = cause.errors()[0]
        if first["type"] in _NUMBERS:
            error.message = f"{str(first['input'])!r} is not {_allowed_number(error.param)}"
        error.message = error.message.removeprefix("Value error, ")
    return error


def _allowed_number(parameter: Any) -> str:
    described = parameter.type_descriptor
    low, high = described.parameter_info.min, described.parameter_info.max
    what = "a whole number" if "int" in str(described.annotation) else "a number"
    if low is None and high is None:
        return what
    if high is None:
        return f"{what} of at least {low:,}"
    return f"{what} of at most {high:,}" if low is None else f"{what} from {low:,} to {high:,}"


def as_assignment(error: NoSuchOption, names: Any) -> UsageError:
    """The error for an option that was meant as NAME=NUMBER, where it has the name of one that is written so."""
    name = error.option_name.lstrip("-").partition("=")[0].replace("-", "_")
    return (
        typer.BadParameter(f"write {name}=NUMBER", error.ctx, param_hint=error.option_name) if name in names else error
    )
