"""Groups of commands that list by default: `coxswain crews` is `coxswain crews list`."""

from typing import Any

from typer.core import TyperGroup


class ListingGroup(TyperGroup):
    """Takes `list` where no command is named, also before options of it."""

    named = ""
    """The command that is meant when an argument is none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_list = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        # A line that is completed may name a command yet.
        if is_list and not ctx.resilient_parsing:
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if self.named and args[0] not in self.commands:
            args = [self.named, *args]
        return super().resolve_command(ctx, args)


class NamingGroup(ListingGroup):
    """Takes an argument that is no command as a name to `get`."""

    named = "get"
