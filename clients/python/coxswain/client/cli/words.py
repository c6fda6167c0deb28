"""What servers say in the words of the command line: they speak of RPCs, fields of messages and enum values.

Each word is mapped here and nowhere else. What the command line has no word for stays as it is.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_COMMANDS = {
    "AcceptToolChanges": "`coxswain tool source accept`",
    "ListToolChanges": "`coxswain tool changes`",
    "ListTools": "`coxswain tool list`",
    "TestTool": "`coxswain tool test`",
    "RefreshToolSource": "`coxswain tool source refresh`",
    "CheckToolSource": "`coxswain tool source check`",
    "UpdateToolSource": "`coxswain tool source update`",
    "PutSecret": "`coxswain secret put`",
    "ListSecrets": "`coxswain secret list`",
    "DeleteSecret": "`coxswain secret delete`",
    "ExplainCredential": "`coxswain secret explain`",
    "WhoAmI": "`coxswain whoami`",
    "SetMember": "`coxswain member set`",
    "RemoveMember": "`coxswain member remove`",
    "RevokeAccess": "`coxswain member revoke`",
    "CreateServiceToken": "`coxswain tokens create`",
    "RevokeServiceToken": "`coxswain tokens revoke`",
    "ListModels": "`coxswain models`",
    "StartExecution": "`coxswain run`",
    "ResumeExecution": "`coxswain resume`",
    "ForkExecution": "`coxswain fork`",
    "RenewExecutionCredential": "`coxswain renew`",
    "GetExecution": "`coxswain get`",
    "ListExecutions": "`coxswain executions`",
    "GetCrew": "`coxswain crews get`",
    "ListPublications": "`coxswain agents`",
    "DeleteCrew": "`coxswain crews delete`",
    "CreateModel": "`coxswain models create`",
    "SetModelEnabled": "`coxswain models enable`",
    "CreateGroup": "`coxswain groups create`",
    "AnswerQuestion": "`coxswain answer`",
    "SetBudget": "`coxswain budget set`",
    "DeleteBudget": "`coxswain budget delete`",
    "ClearNamespace": "`coxswain memory clear`",
    "ForgetSubject": "`coxswain memory forget`",
    "DeleteIndex": "`coxswain memory index delete`",
    "EmptyIndex": "`coxswain memory index empty`",
    "AdoptIndex": "`coxswain memory adopt`",
    "UpdateMemoryBackend": "`coxswain memory backend update`",
    "ProvisionMemoryBackend": "`coxswain memory backend provision`",
    "VerifyMemoryBackend": "`coxswain memory backend verify`",
}
_RPC = re.compile(r"(?:\b\w+Service\.)?\b(" + "|".join(_COMMANDS) + r")\b")
# Names of enum values begin with the name of their enum; what follows is how files and options write them.
_ENUMS = ("EXECUTION_STATE", "TASK_STATE", "QUESTION_STATE", "QUESTION_KIND", "TOOL_APPROVAL", "ON_TOOL_CHANGE")
_ENUM_VALUE = re.compile(r"\b(?:" + "|".join(_ENUMS) + r")_([A-Z][A-Z_]*)\b")
_SET_FIELD = re.compile(r"\b([Ss])et ([a-z]+(?:_[a-z]+)*)\b")
_FIELD = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
# Options that have another name than the field they fill.
_NAMES_IN_TEXTS = {"carry_over_memories": "carry_memories"}
_NAMES_OF_FIELDS = {
    **_NAMES_IN_TEXTS,
    "memory_id": "crew",
    "crew_id": "crew",
    "crew_name": "crew",
    "execution_id": "id",
    "question_id": "id",
    "inputs": "given",
    "secret_name": "secret",
    "allowed_origins": "origins",
}
_CONTENT = "accept.content."
# Fields with keys that people choose, wherever a request has them.
_KEYED = re.compile(r"(?:^|\.)(inputs|labels)\.(.+)")
_SUBSCRIPT = re.compile(r"\[[^\]]*\]")

Options = Mapping[str, str]
"""What people type for each parameter of a command, by its name. Example: {"request_id": "--request-id"}."""


def in_own_words(text: str, options: Options) -> str:
    """A text of a server, with commands for its RPCs, options for its fields, and enum values as files write them."""
    text = _RPC.sub(lambda found: _COMMANDS[found[1]], text)
    text = _ENUM_VALUE.sub(lambda found: found[1].lower(), text)
    text = text.replace("Repeat the update with", "Repeat the command with")
    text = _SET_FIELD.sub(lambda found: _giving(found, options), text)
    return _FIELD.sub(lambda found: _option(found[0], options, _NAMES_IN_TEXTS) or found[0], text)


def field_in_own_words(path: str, options: Options) -> str:
    """The option or argument that a field of a request comes from; the path itself if none does."""
    if path.startswith(_CONTENT) and (option := options.get("fields")):
        return f"{option} {path.removeprefix(_CONTENT).removeprefix('arguments.')}"
    if keyed := _KEYED.search(path):
        option = _option(keyed[1], options, _NAMES_OF_FIELDS)
        return f"{option} {keyed[2]}" if option else path
    first, _, key = path.partition(".")
    if key and first == "limits" and "limits" in options:
        # They are typed as NAME=NUMBER, so that the name alone says which one is meant.
        return key
    names = reversed(_SUBSCRIPT.sub("", path).split("."))
    return next((option for name in names if (option := _option(name, options, _NAMES_OF_FIELDS))), path)


def _giving(found: re.Match[str], options: Options) -> str:
    option = _option(found[2], options, _NAMES_IN_TEXTS)
    return f"{'Give' if found[1] == 'S' else 'give'} {option}" if option.startswith("--") else found[0]


def _option(field: str, options: Options, names: Mapping[str, str]) -> str:
    return options.get(field) or options.get(names.get(field, ""), "")


def options_of(parameters: Iterable[Any]) -> dict[str, str]:
    """What people type for the parameters of a command of typer, by their names and by those of the options."""
    typed: dict[str, str] = {}
    for parameter in parameters:
        long = next((spelling for spelling in parameter.opts if spelling.startswith("--")), "")
        typed[parameter.name] = long or (getattr(parameter, "metavar", None) or parameter.name.upper()).strip("[]")
        if long:
            typed.setdefault(long.removeprefix("--").replace("-", "_"), long)
    return typed
