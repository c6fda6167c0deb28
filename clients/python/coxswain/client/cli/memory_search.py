"""Searches on the command line: of one namespace, or of several crews and kinds at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.listing import Listing
from coxswain.client.cli.namespaces import (
    MemoryIdOption,
    PrivateOption,
    namespace_of,
    warn_if_unknown,
)
from coxswain.client.cli.session import JsonOption, Session, add_row, one_line, session_of
from coxswain.client.later import batch_search_pb2, memory_file, memory_pb2

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

_MOST_OF_SEVERAL = 200


def search(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="What to look for, in your own words.")],
    crews: Annotated[list[str] | None, typer.Option("--crew", help="A crew, by name or id; repeatable.")] = None,
    memory_id: MemoryIdOption = "",
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help="unified (the default), short_term, long_term, entity or document; repeatable."),
    ] = None,
    all_crews: Annotated[bool, typer.Option("--all-crews", help="Search whatever the group remembers.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10000, help="How many at most; 200 over several crews.")] = 10,
    min_score: Annotated[float | None, typer.Option(min=-1, max=1, help="Least similarity, -1 to 1.")] = None,
    private: PrivateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the memories nearest in meaning to a text, best first. Their texts are shown on one line; --json has all.

    Several crews and kinds are searched together. With --all-crews that is every kind, unless some are named.

    Example: `coxswain memory search "who kept the light burning" --crew brief --limit 3`
    """
    session = session_of(context, as_json)
    named = list(dict.fromkeys(crews or ()))
    if all_crews and (named or memory_id):
        raise typer.BadParameter("stands for every crew: name none", param_hint="--all-crews")
    if all_crews or len(named) > 1 or len(kinds or ()) > 1:
        if limit > _MOST_OF_SEVERAL:
            raise typer.BadParameter(f"is at most {_MOST_OF_SEVERAL} over several crews", param_hint="--limit")
        query = batch_search_pb2.SearchQuery(text=text, limit=limit)
        if min_score is not None:
            query.min_score = min_score
        if private:
            query.filter.include_private = True
        with session.client() as client:
            if all_crews:
                query.all_namespaces.CopyFrom(
                    batch_search_pb2.AllNamespaces(kinds=map(memory_file.kind_from, kinds or ()))
                )
            else:
                places = (
                    namespace_of(client, crew, memory_id, kind)
                    for kind in kinds or ["unified"]
                    for crew in (named or [""])
                )
                query.namespaces.extend({place.SerializeToString(): place for place in places}.values())
            return _search_several(session, client, query)
    request = memory_pb2.SearchRecordsRequest(text=text)
    if min_score is not None:
        request.min_score = min_score
    if private:
        request.filter.include_private = True
    with session.client() as client:
        request.namespace.CopyFrom(
            namespace_of(client, named[0] if named else "", memory_id, kinds[0] if kinds else "unified")
        )
        return _search_one(session, client, request, limit)


def _search_one(session: Session, client: Client, request: memory_pb2.SearchRecordsRequest, limit: int) -> None:
    results, scanned, truncated = list[memory_pb2.SearchResult](), 0, False
    while len(results) < limit:
        request.limit = limit - len(results)
        response = client.memory.SearchRecords(request)
        results += response.results
        scanned, truncated = scanned + response.scanned_records, truncated or response.truncated
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    if not results and not session.json:
        warn_if_unknown(session, client, request.namespace)
    _say_how(session, scanned, truncated=truncated)
    if session.json:
        return session.print_json(results)
    made = Listing(">score", "memory", "id")
    for result in results:
        add_row(made, f"{result.score:.3f}", one_line(memory_file.content_of(result.record)), result.record.id)
    session.out.print(made if results else "nothing found")
    return None


def _search_several(session: Session, client: Client, query: batch_search_pb2.SearchQuery) -> None:
    [answer] = client.memory.BatchSearchRecords(batch_search_pb2.BatchSearchRecordsRequest(queries=[query])).answers
    for problem in answer.problems:
        places = ", ".join(
            f"{place.memory_id} ({memory_file.kind_name(place.kind)})" for place in problem.namespaces[:10]
        )
        session.fail(f"not searched: {places}: {one_line(problem.message)}")
    if answer.next_namespaces_token:
        session.say("the group has more crews than one search goes through: name some with --crew", "yellow")
    if answer.cut:
        session.say("more were found than a message holds: lower --limit, or search fewer crews", "yellow")
    if answer.merge == batch_search_pb2.SEARCH_MERGE_RANK:
        session.say("scores of different embedding models are not comparable: the best of each come in turn", "yellow")
    _say_how(session, answer.scanned_records, truncated=answer.truncated)
    if session.json:
        return session.print_json(list(answer.results))
    made = Listing(">score", "memory", "crew", "kind", "id")
    for found in answer.results:
        record = found.result.record
        add_row(
            made,
            f"{found.result.score:.3f}",
            one_line(memory_file.content_of(record)),
            _crew(found),
            memory_file.kind_name(found.namespace.kind),
            record.id,
        )
    session.out.print(made if answer.results else "nothing found")
    return None


def _crew(found: batch_search_pb2.NamespaceSearchResult) -> str:
    return found.crew_name or found.namespace.memory_id


def _say_how(session: Session, scanned: int, *, truncated: bool) -> None:
    if truncated:
        session.say("only the nearest candidates were checked: others may match too", "yellow")
    if scanned:
        session.say(f"{scanned:,} records were read for this search; the time grows with their number", "dim")
