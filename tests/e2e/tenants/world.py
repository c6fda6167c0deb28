"""Two groups beside each other in a running installation, for each kind of store that memories can be kept in."""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.e2e.tenants.api import Api
from tests.e2e.tenants.attempts import mark
from tests.e2e.tenants.stored import Rows, is_at_rest, rows_of
from tests.e2e.tenants.stores import Store
from tests.e2e.tenants.things import Group, Things
from tests.support.installation import Installation, wait_until
from tests.support.llm_emulator import LlmEmulator
from tests.support.suite_process import SuiteProcess

_PATIENCE = (
    *("COXSWAIN_WORKER_MODEL_CALL_SECONDS", "COXSWAIN_WORKER_MODEL_FIRST_BYTE_SECONDS"),
    *("COXSWAIN_MODELS_REQUEST_TIMEOUT_SECONDS", "COXSWAIN_MODELS_FIRST_BYTE_SECONDS"),
)
"""Settings after which a call of a model that does not answer is given up, and made again."""


@dataclass
class World:
    """An installation with two groups. Nothing of `theirs` may ever get to `ours`."""

    installation: Installation
    llm: LlmEmulator
    ours: Group
    theirs: Group
    told: str
    """Stands in every text of theirs, and in every name of theirs that ours is never given."""
    names: str
    """Stands in every other name of theirs."""
    unheard_of: frozenset[str]
    """Values that the installation gave to things of theirs, and that ours is never given."""
    before: Rows
    """What was stored of theirs before there was anything of ours."""
    store: Store
    """What their memories are kept in."""


@contextlib.contextmanager
def serve_world(directory: Path, store: Store, database_url: str = "") -> Iterator[World]:
    """Serve everything on one port with two groups in it; `database_url` is "" for SQLite."""
    with LlmEmulator() as llm:
        environment = {
            "OPENAI_API_KEY": "sk-emulated-0123456789",
            "OPENAI_BASE_URL": f"{llm.url}/v1",
            "COXSWAIN_MODELS_EGRESS_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
            "COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
            # Three executions wait for ever, and change nothing while they do.
            "COXSWAIN_WORKER_SLOTS": "8",
            **dict.fromkeys(_PATIENCE, "7200"),
            **({"COXSWAIN_DATABASE_URL": database_url, "COXSWAIN_MIGRATE": "auto"} if database_url else {}),
            **store.environment,
        }
        suite = SuiteProcess(directory / "data", workers=1, environment=environment)
        suite.database_url = database_url
        with suite.running(), grpc.insecure_channel(suite.address("auth")) as channel:
            yield populate(suite, llm, lambda _service: channel, store)


def populate(
    installation: Installation, llm: LlmEmulator, channel_of: Callable[[str], grpc.Channel], store: Store
) -> World:
    """Fill two groups: theirs twice, with names that ours is given and with names that ours never hears of."""
    told, names = f"told{secrets.token_hex(6)}", mark("bcdfghjklm")
    groups = {}
    for name, subject in (("theirs", mark("bcdfghjklm", 6)), ("ours", "alice")):
        group_id = names if name == "theirs" else f"ours-{secrets.token_hex(3)}"
        groups[name] = Group(group_id, Api(channel_of, f"dev:{subject}:{group_id}=admin"), f"dev|{subject}")
    theirs, ours = groups["theirs"], groups["ours"]
    silent = Group(theirs.name, theirs.api, theirs.subject)
    store.take(silent, told, told)
    Things(silent, llm, mark=told, told=told).make()
    unheard_of = {value for kind, values in silent.values.items() if kind.endswith("_id") for value in values}
    store.take(theirs, names, told)
    Things(theirs, llm, mark=names, told=told).make()
    # What is stored up to here is all theirs.
    wait_until(lambda: is_at_rest(installation), "the grants of what has ended are taken back")
    before = rows_of(installation)
    own = mark("aeiou")
    store.take(ours, own, "ours")
    Things(ours, llm, mark=own, told="ours").make()
    return World(installation, llm, ours, theirs, told, names, frozenset(unheard_of), before, store)
