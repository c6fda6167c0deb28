"""Resolves which memories a command refers to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.session import Session
from coxswain.client.later import memory_file, memory_pb2, record_pb2
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

CrewOption = Annotated[str, typer.Option("--crew", help="The crew, by name or id.")]
MemoryIdOption = Annotated[
    str, typer.Option("--memory-id", help="The memory id of a crew, as `memory stats` lists it.")
]
KindOption = Annotated[str, typer.Option("--kind", help="unified, short_term, long_term, entity or document.")]

PrivateOption = Annotated[
    bool, typer.Option("--private", help="Include memories that are private to one source; needs the role editor.")
]


def namespaces(client: Client) -> Iterator[memory_pb2.NamespaceInfo]:
    """All namespaces of the group."""
    return pages(client.memory.ListNamespaces, memory_pb2.ListNamespacesRequest(page_size=1000), "namespaces")


def namespace_of(client: Client, crew: str, memory_id: str, kind: str) -> memory_pb2.Namespace:
    """The namespace of a command: the one it names, or the only one of that kind.

    Raises typer.BadParameter and ValueError when that is ambiguous.
    """
    number = memory_file.kind_from(kind)
    if crew and memory_id:
        raise typer.BadParameter("give one of --crew and --memory-id", param_hint="--crew")
    if number == record_pb2.MemoryKind.MEMORY_KIND_DOCUMENT:
        if crew or memory_id:
            raise typer.BadParameter("documents belong to the whole group: name no crew", param_hint="--crew")
        return memory_pb2.Namespace(kind=number)
    if crew:
        stored = client.get_crew(crew)
        if not stored.memory_id:
            raise ValueError(
                f"the memory of crew {stored.spec.name} is off; `coxswain memory stats` lists the ids of older memories"
            )
        return memory_pb2.Namespace(memory_id=stored.memory_id, kind=number)
    if memory_id:
        return memory_pb2.Namespace(memory_id=memory_id, kind=number)
    known = [info.namespace for info in namespaces(client)]
    found = [namespace for namespace in known if namespace.kind == number]
    if len(found) == 1:
        return found[0]
    if not found:
        others = ", ".join(dict.fromkeys(memory_file.kind_name(namespace.kind) for namespace in known))
        hint = f"; it has others: --kind {others}" if others else ""
        raise ValueError(f"the group has no {memory_file.kind_name(number)} memories yet{hint}")
    ids = ", ".join(namespace.memory_id for namespace in found[:10])
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    raise typer.BadParameter(
        f"several crews have memories: {ids}{more}; choose one, or name a crew with --crew", param_hint="--memory-id"
    )


def is_known(client: Client, namespace: memory_pb2.Namespace) -> bool:
    """Whether anything was ever saved in the namespace."""
    return any(info.namespace == namespace for info in namespaces(client))


def warn_if_unknown(session: Session, client: Client, namespace: memory_pb2.Namespace) -> None:
    """When nothing was found, warn if the namespace does not exist: the id may be mistyped."""
    if not is_known(client, namespace):
        session.say(unknown(namespace), "yellow")


def unknown(namespace: memory_pb2.Namespace) -> str:
    """The message for a namespace that does not exist."""
    whose = f"under the memory id {namespace.memory_id}" if namespace.memory_id else "in this group"
    kind = memory_file.kind_name(namespace.kind)
    return f"there are no {kind} memories {whose}; `coxswain memory stats` lists all namespaces"
