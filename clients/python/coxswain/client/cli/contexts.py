"""The installations that somebody works with, kept in a file that only they can read."""

import json
import os
import stat
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from coxswain.client.cli.global_options import GlobalOptions
from coxswain.client.near import did_you_mean, near_names


@dataclass(frozen=True)
class Context:
    """One installation, and who somebody is there."""

    address: str
    token: str = field(default="", repr=False)
    group: str = ""
    tls: bool = False
    ca_file: str = ""


@dataclass
class Contexts:
    """All contexts by their names, and the one that counts when none is named."""

    current: str = ""
    named: dict[str, Context] = field(default_factory=dict)

    def get(self, name: str) -> Context:
        """The context of a name. Raises ValueError for an unknown one."""
        if name not in self.named:
            known = ", ".join(sorted(self.named)) or "none yet; `coxswain login` makes one"
            hint = did_you_mean(near_names(name, self.named)) or f"there are: {known}"
            raise ValueError(f"there is no context {name!r}; {hint}")
        return self.named[name]


def contexts_path() -> Path:
    """The file: COXSWAIN_CONTEXTS, else coxswain/contexts.json where the user's configuration lies."""
    if given := os.environ.get("COXSWAIN_CONTEXTS"):
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "coxswain" / "contexts.json"


def load_contexts() -> Contexts:
    """What the file holds; nothing when there is none.

    Raises ValueError when others may read it, or when it is not what `save_contexts` writes.
    """
    path = contexts_path()
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                raise ValueError(f"{path} holds tokens and others may read it: chmod 600 it")
            stored = json.load(file)
        named = {name: Context(**fields) for name, fields in stored["contexts"].items()}
        return Contexts(stored["current"], named)
    except FileNotFoundError:
        return Contexts()
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a file of contexts: delete it and log in again") from None


def save_contexts(contexts: Contexts) -> None:
    """Write the file for its owner alone; a reader sees the old one or the new one."""
    path = contexts_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Its mode is 0600 from the beginning.
    # It loads much that help and completion do not need.
    import tempfile

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".contexts-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            named = {name: asdict(context) for name, context in sorted(contexts.named.items())}
            json.dump({"current": contexts.current, "contexts": named}, file, indent=2)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def with_context(options: GlobalOptions) -> GlobalOptions:
    """The options, and what the context says where they say nothing.

    A context counts at its own address alone: its token goes to no other server. One that is named counts before
    COXSWAIN_ADDRESS. Raises ValueError for an unknown context, and for one that is named beside another address.
    """
    if options.named_context and options.address == os.environ.get("COXSWAIN_ADDRESS"):
        options = replace(options, address=None)
    if options.address and not options.named_context:
        return options
    contexts = load_contexts()
    name = options.named_context or contexts.current
    if not name:
        return options
    context = contexts.get(name)
    if options.address and options.address != context.address:
        raise ValueError(f"the context {name} is for {context.address}: give either --context or --address")
    given: dict[str, Any] = {
        "address": context.address,
        "token": options.token or context.token,
        "group": options.group or context.group,
        "tls": options.tls or context.tls,
        "ca_file": options.ca_file or (Path(context.ca_file) if context.ca_file else None),
    }
    return replace(options, **given)
