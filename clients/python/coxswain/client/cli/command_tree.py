"""Every command with what it does, known without loading any of them.

Help and completion load only what they are asked about.
"""

import copy
import importlib
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NamedTuple

import typer
from typer._click.shell_completion import CompletionItem
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info, get_group_from_info
from typer.models import CommandInfo, TyperInfo

from coxswain.client.cli.complete import complete_name, resource_of
from coxswain.client.cli.global_options import GlobalOptions


class Entry(NamedTuple):
    """Where a command is, and the beginning of its help."""

    module: str
    """Below this package."""
    attribute: str
    """A function, or an application of typer with commands of its own."""
    help: str
    command_class: str = ""
    """Another attribute of the module: the class of the command, where it has one of its own."""


SECTIONS: dict[str, dict[str, Entry]] = {
    "Installation": {
        "up": Entry("system", "up", "Serve all services on this machine until Ctrl-C."),
        "login": Entry(
            "login", "login", "Remember an installation with your token, and use it from now on.", "ReadsToken"
        ),
        "logout": Entry("login", "logout", "Forget the token of an installation."),
        "context": Entry("login", "app", "List, choose and delete the installations that you have logged in to."),
        "status": Entry("system", "status", "Show whether each service is serving, and who you are."),
        "version": Entry(
            "system", "version", "Print the version of this client, and of the server where one answers at once."
        ),
        "whoami": Entry("system", "whoami", "Show subject, group, role, the groups you may choose"),
        "doctor": Entry("doctor", "doctor", "Check address, TLS, services, releases, identity, workers"),
        "call": Entry("call", "call", "Call any method of the API with JSON"),
    },
    "Crews and executions": {
        "apply": Entry("apply", "apply", "Create a crew, or store a new revision of the one of that name."),
        "crews": Entry("crews", "app", "List the group's crews, newest first; show, export, compare one."),
        "agents": Entry("agents", "app", "List the crews that other systems can call as agents; try one."),
        "run": Entry("run", "run", "Run a crew and print its result."),
        "watch": Entry("run", "watch", "Show the events of an execution until it ends, then its result."),
        "executions": Entry("executions", "executions", "List executions, newest first."),
        "get": Entry("executions", "get", "Show the current state of an execution."),
        "outputs": Entry("executions", "outputs", "Show what each task of an execution has produced so far."),
        "top": Entry("top", "top", "Show the group's live executions, queue, worker hosts"),
        "events": Entry("events", "events", "Follow what happens in all executions of your group"),
        "cancel": Entry("executions", "cancel", "Cancel an execution; outputs of finished tasks are kept."),
        "resume": Entry("continuing", "resume", "Start a new execution from one that failed or was cancelled"),
        "fork": Entry("continuing", "fork", "Run another course of an execution that has ended"),
        "compare": Entry("continuing", "compare", "Show executions side by side"),
        "renew": Entry("executions", "renew", "Let an execution that you started continue with your current token"),
        "delete": Entry("retention", "delete", "Delete an execution that has ended, with its results and events."),
        "retention": Entry("retention", "retention", "Show for how long executions of your group are kept"),
        "questions": Entry("questions", "questions", "List what executions of the group ask people, newest first."),
        "answer": Entry("answers", "answer", "Answer a question."),
        "approvals": Entry("approvals", "app", "List and answer what executions ask people."),
        "artifact": Entry("artifacts", "app", "List and download the files of executions."),
        "batch": Entry("batches", "app", "Run one crew with many inputs."),
        "webhooks": Entry("webhooks", "app", "List the addresses that events are posted to; create, change, retry."),
        "schedule": Entry("schedules", "app", "Start crews at fixed times."),
    },
    "Memory, models and tools": {
        "memory": Entry("memory", "app", "Search and manage the memories of crews."),
        "models": Entry("models", "app", "List the models your group can see; show, create, enable, try one."),
        "fallbacks": Entry("fallbacks", "fallbacks", "Show or choose the models that answer when one cannot"),
        "ask": Entry("ask", "ask", "Ask a model a question, with files that it looks at, reads or listens to."),
        "tool": Entry("tools", "app", "List and try the tools of crews."),
    },
    "Access and costs": {
        "groups": Entry("groups", "app", "List, create and delete groups"),
        "member": Entry("members", "app", "Say who may act in the group."),
        "secret": Entry("secrets", "app", "Keep what the group authenticates with"),
        "tokens": Entry("service_tokens", "app", "Make tokens for machines that have no identity provider"),
        "usage": Entry("usage", "usage", "Show the calls, tokens and cost of the group's model calls."),
        "budget": Entry("usage", "budget_app", "Limits on the model calls of the group."),
        "limits": Entry("group_limits", "app", "What groups may do and have."),
    },
}
_ALIASES = {
    "agent": "agents",
    "approval": "approvals",
    "artifacts": "artifact",
    "batches": "batch",
    "contexts": "context",
    "credential": "secret",
    "crew": "crews",
    "logs": "watch",
    "members": "member",
    "model": "models",
    "schedules": "schedule",
    "secrets": "secret",
    "token": "tokens",
    "tools": "tool",
    "webhook": "webhooks",
}
"""Other names of commands, which help does not show."""
_LISTS = frozenset({"executions", "questions"})
"""Commands that only list: `list` behind them changes nothing, as behind those that have others below them."""
_HELP = "help"
_BEHIND = "behind_the_command_"
_ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class CommandTree(TyperGroup):
    """The group of all commands. Each takes the options of this group as well, wherever they stand on the line."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands(self)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args[0] == _HELP:
            if not args[1:]:
                typer.echo(ctx.get_help())
                raise typer.Exit
            args = [*args[1:], ctx.help_option_names[-1]]
        if args[0] in _LISTS and args[1:2] == ["list"]:
            args = [args[0], *args[2:]]
        return super().resolve_command(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        parameters = super().get_params(ctx)
        for parameter in parameters:
            _skip_when_absent(parameter)
        return parameters

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as the class above says
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help.rstrip(".")) for name, entry in section.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        found = [(name, entry) for name, entry in _ENTRIES.items() if name.startswith(incomplete)]
        # What the class of groups itself adds are the names of its commands, each loaded for its help.
        return [
            *(CompletionItem(name, help=entry.help) for name, entry in found),
            *super(TyperGroup, self).shell_complete(ctx, incomplete),
        ]


class _Commands(MutableMapping[str, Any]):
    """The commands by their names, each loaded when it is first asked for."""

    def __init__(self, tree: CommandTree) -> None:
        self._tree = tree
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        name = _ALIASES.get(name, name)
        if name not in self._loaded:
            self._loaded[name] = _load(name, _ENTRIES[name])
            _add_global_options(self._loaded[name], self._tree)
            _add_roles(self._loaded[name], name)
            _add_completion(self._loaded[name], name)
            _take_unchecked(self._loaded[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_ENTRIES)

    def __len__(self) -> int:
        return len(_ENTRIES)


def _load(name: str, entry: Entry) -> Any:
    module = importlib.import_module(f"{__package__}.{entry.module}")
    found = getattr(module, entry.attribute)
    if isinstance(found, typer.Typer):
        return get_group_from_info(
            TyperInfo(found, name=name), pretty_exceptions_short=False, suggest_commands=True, rich_markup_mode=None
        )
    kind = getattr(module, entry.command_class) if entry.command_class else TyperCommand
    return get_command_from_info(
        CommandInfo(name, cls=kind, callback=found), pretty_exceptions_short=False, rich_markup_mode=None
    )


def _add_global_options(command: Any, tree: CommandTree) -> None:
    """Let a command and all below it take the options of the tree, unless it has one of that name itself."""
    for inner in getattr(command, "commands", {}).values():
        _add_global_options(inner, tree)
    taken = {spelling for parameter in command.params for spelling in parameter.opts}
    for option in tree.params:
        # Eager ones are about the program: completion and version.
        if option.is_eager or taken.intersection(option.opts):
            continue
        repeated: Any = copy.copy(option)
        # A command may have an argument of the same name.
        repeated.name = f"{_BEHIND}{option.name}"
        repeated.default, repeated.envvar, repeated.hidden = None, None, True
        repeated.expose_value, repeated.callback = False, _override
        _skip_when_absent(repeated)
        command.params.append(repeated)


def _add_completion(command: Any, path: str) -> None:
    """Let a command and all below it complete the names of what their parameters mean."""
    for name, inner in getattr(command, "commands", {}).items():
        _add_completion(inner, f"{path} {name}")
    for parameter in command.params:
        key = parameter.name if parameter.param_type_name == "argument" else parameter.opts[0]
        if resource := resource_of(path, key):
            parameter.shell_complete = _completion(resource)


def _completion(resource: str) -> Callable[[Any, str], list[CompletionItem]]:
    return lambda ctx, incomplete: [CompletionItem(name) for name in complete_name(ctx, incomplete, resource)]


def _add_roles(command: Any, path: str) -> None:
    """Let the help of a command and of all below it end with the role that is needed."""
    for name, inner in getattr(command, "commands", {}).items():
        _add_roles(inner, f"{path} {name}")
    if hasattr(command, "commands"):
        return

    def format_epilog(_context: Any, formatter: Any) -> None:
        from coxswain.client.cli.needed_roles import role_line

        if line := role_line(path):
            formatter.write_paragraph()
            formatter.write_text(line)

    command.format_epilog = format_epilog


def _take_unchecked(command: Any) -> None:
    """Check no absent value of a command and of all below it, and none on completion: typer imports pydantic for it."""
    for inner in getattr(command, "commands", {}).values():
        _take_unchecked(inner)
    given = command.get_params

    def get_params(context: Any) -> list[Any]:
        parameters: list[Any] = given(context)
        for parameter in parameters:
            if "process_value" not in vars(parameter):
                _skip(parameter, _needs_no_check(parameter))
        return parameters

    command.get_params = get_params


def _needs_no_check(parameter: Any) -> Callable[[Any, Any], bool]:
    is_one = parameter.nargs == 1 and not parameter.multiple
    # An eager one, as for help, does nothing where it is absent.
    may_be_absent = is_one and not parameter.required and (parameter.callback is None or parameter.is_eager)
    return lambda context, value: context.resilient_parsing or (value is None and may_be_absent)


def _skip_when_absent(parameter: Any) -> None:
    """Check a parameter's value only where there is one to act on."""
    _skip(parameter, lambda context, value: value is None or context.resilient_parsing)


def _skip(parameter: Any, is_unchecked: Callable[[Any, Any], bool]) -> None:
    is_text = parameter.type_descriptor.annotation is str and parameter.nargs == 1 and not parameter.multiple
    takes_any_text = is_text and parameter.callback is None

    def process_value(context: Any, value: Any) -> Any:
        if is_unchecked(context, value) or (takes_any_text and isinstance(value, str)):
            return value
        return type(parameter).process_value(parameter, context, value)

    parameter.process_value = process_value


def _override(context: Any, parameter: Any, value: Any) -> None:
    """Let an option behind a command take the place of the same one before it."""
    if not context.resilient_parsing:
        root = context.find_root()
        root.obj = root.obj or GlobalOptions()
        setattr(root.obj, parameter.name.removeprefix(_BEHIND), value)
