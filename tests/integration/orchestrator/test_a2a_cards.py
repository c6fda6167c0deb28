"""Agent cards over HTTP: found by the official client, cached as HTTP says, and for those alone whom they are for."""

import asyncio
import json
import select as readiness
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import grpc
import httpx
import pytest
from a2a.client import A2ACardResolver, ClientCallContext, ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import InvalidSignaturesError, create_signature_verifier
from google.protobuf import json_format
from jwt import PyJWK, PyJWKSet
from sqlalchemy import select

from coxswain.orchestrator.v1 import a2a_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator import tables
from services.orchestrator.servicers.a2a import http as card_listener
from services.orchestrator.servicers.a2a.http import CardDocument, CardServer
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.usecases.publications import Publications
from tests.integration.orchestrator.a2a_support import agent, publish
from tests.integration.orchestrator.support import create_crew, crews
from tests.support.child_process import free_port
from tests.support.harness import ALICE, BOB, Harness, serve_services

DEV = "dev:dev:default=admin"
BOBS_GROUP = "legal"
WELL_KNOWN = "/.well-known/agent-card.json"


@dataclass
class Cards:
    """An orchestrator that serves cards, and a client of these."""

    harness: Harness
    http: httpx.AsyncClient


@pytest.fixture
async def cards(tmp_path: Path) -> AsyncIterator[Cards]:
    port = free_port()
    settings = OrchestratorSettings(a2a_http_port=port)
    async with (
        serve_services(tmp_path, "models", "orchestrator", settings={"orchestrator": settings}) as harness,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        yield Cards(harness, http)


async def test_the_official_client_discovers_an_agent_by_its_card(cards: Cards) -> None:
    skills = [a2a_pb2.A2ASkill(id="brief", name="Brief")]
    tenant = await publish(cards.harness, DEV, skills=skills)
    found = await A2ACardResolver(cards.http, str(cards.http.base_url)).get_agent_card()
    assert {interface.tenant for interface in found.supported_interfaces} == {tenant}
    config = ClientConfig(
        supported_protocol_bindings=["GRPC"],
        grpc_channel_factory=lambda _: grpc.aio.insecure_channel(cards.harness.address),
        streaming=False,
        polling=True,
    )
    client = ClientFactory(config).create(found)
    message = pb.Message(message_id="m", role=pb.ROLE_USER, parts=[pb.Part(text="the news")])
    context = ClientCallContext(service_parameters={"authorization": f"Bearer {DEV}"})
    (response,) = [one async for one in client.send_message(pb.SendMessageRequest(message=message), context=context)]
    assert response.task.status.state == pb.TASK_STATE_INPUT_REQUIRED
    await client.close()


async def test_a_card_has_the_fields_of_the_protocol_and_is_cached(cards: Cards) -> None:
    tenant = await publish(cards.harness)
    assert (await cards.http.get("/.well-known/jwks.json")).status_code == 404
    path = f"/a2a/{tenant}/agent-card.json"
    response = await cards.http.get(path)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.headers["cache-control"] == "public, max-age=60"
    # Unknown fields are refused here.
    card = json_format.Parse(response.text, pb.AgentCard())
    assert not any(one.uri.endswith("/inputs/v1") for one in card.capabilities.extensions)
    written = json.loads(response.text)
    required = ("name", "description", "supportedInterfaces", "version", "capabilities", "skills")
    assert set(required) <= set(written)
    (skill,) = written["skills"]
    assert (skill["id"], skill["tags"]) == (written["name"].replace(" ", "-"), ["crew"])
    head = await cards.http.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(response.content)))
    tag, modified = response.headers["etag"], response.headers["last-modified"]
    for headers, status in (
        ({"if-none-match": tag}, 304),
        ({"if-none-match": f'"other", W/{tag}'}, 304),
        ({"if-none-match": '"other"', "if-modified-since": modified}, 200),
        ({"if-modified-since": modified}, 304),
        ({"if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
        ({"if-modified-since": "nonsense"}, 200),
        ({"if-modified-since": "Sat, 01 Jan 99999999999 00:00:00 GMT"}, 200),
    ):
        again = await cards.http.get(path, headers=headers)
        assert (again.status_code, bool(again.content)) == (status, status == 200), headers


async def test_what_is_no_card_is_not_there(cards: Cards) -> None:
    await publish(cards.harness)
    tenant = (await _tenants(cards.harness))[0]
    answers = set()
    for path in (f"/a2a/{'0' * 32}/agent-card.json", f"/a2a/{tenant}", "/", "/metrics", WELL_KNOWN, "/a2a/../x"):
        response = await cards.http.get(path)
        answers.add((response.status_code, response.content, tuple(sorted(response.headers))))
    assert [answer[:2] for answer in answers] == [(404, b"")]
    assert (await cards.http.post(f"/a2a/{tenant}/agent-card.json")).status_code == 405
    reader, writer = await asyncio.open_connection("127.0.0.1", cards.http.base_url.port)
    writer.write(b"nonsense\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_listener, "_SECONDS", 0.2)
    card = CardDocument(b"x" * 16 * 1024 * 1024, '"tag"', "Thu, 01 Jan 1970 00:00:00 GMT")

    async def find(path: str, version: str) -> CardDocument:
        return card

    server = CardServer("127.0.0.1", 0, find)
    await server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        poll = readiness.poll()
        # Data that waits to be read does not count.
        poll.register(client, 0)
        events = await asyncio.to_thread(poll.poll, 20_000)
    await server.close()
    assert events


async def test_a_default_of_a_crew_that_the_release_before_deleted_makes_room(cards: Cards) -> None:
    default = a2a_pb2.A2ASpec(published=True, text_input="text", is_default=True)
    gone = await create_crew(cards.harness, name="gone", a2a=default)
    database = Database(f"sqlite:///{cards.harness.data_dir / 'orchestrator.db'}", "orchestrator")
    async with database.write() as connection:
        await connection.execute(tables.crews.update().where(tables.crews.c.id == gone.id).values(deleted_at=utc_now()))
    assert not await _tenants(cards.harness)
    kept = await create_crew(cards.harness, name="kept", a2a=default)
    with pytest.raises(grpc.aio.AioRpcError) as second:
        await create_crew(cards.harness, name="another", a2a=default)
    assert second.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    # It stores revisions, too, that publish nothing.
    of_kept = tables.crew_revisions.c.crew_id == kept.id
    async with database.write() as connection:
        document = await connection.scalar(select(tables.crew_revisions.c.document).where(of_kept))
        assert document is not None
        assert document.pop("a2a")["published"]
        await connection.execute(tables.crew_revisions.update().where(of_kept).values(document=document))
    await create_crew(cards.harness, name="another", a2a=default)
    assert len(await _tenants(cards.harness)) == 1
    await database.close()


async def test_outside_of_development_a_card_is_public_when_its_crew_says_so(cards: Cards) -> None:
    hidden = await publish(cards.harness, is_default=True)
    shown = await publish(cards.harness, public_card=True)
    database = Database(f"sqlite:///{cards.harness.data_dir / 'orchestrator.db'}", "orchestrator")
    publications = Publications(database, all_public=False, well_known_group="sales")
    assert await publications.public(hidden) is None
    found = await publications.public(shown)
    assert found is not None
    assert found[0].tenant == shown
    # The default of the group that the operator names, although that is not public.
    assert await publications.well_known() is None
    default = a2a_pb2.A2ASpec(published=True, text_input="text", is_default=True, public_card=True)
    await create_crew(cards.harness, BOB, name="bob's", a2a=default)
    bobs = Publications(database, all_public=False, well_known_group=BOBS_GROUP)
    # Others change nothing about it.
    await create_crew(cards.harness, "dev:eve:page=admin", name="eve's", a2a=default)
    found = await bobs.well_known()
    assert found is not None
    assert found[0].crew_name == "bob's"
    assert await publications.well_known() is None
    assert await Publications(database, all_public=False, well_known_group="").well_known() is None
    await database.close()


async def test_signed_cards_are_verified_by_the_official_sdk_with_the_keys_that_are_served(tmp_path: Path) -> None:
    port = free_port()
    keys_url = f"http://127.0.0.1:{port}/.well-known/jwks.json"
    settings = OrchestratorSettings(a2a_http_port=port, a2a_card_keys_url=keys_url)
    async with (
        serve_services(tmp_path, "models", "orchestrator", settings={"orchestrator": settings}) as harness,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        skills = [a2a_pb2.A2ASkill(id="brief", name="Brief \u00e4 \U0001f6a3", examples=["Brief me"])]
        await publish(harness, DEV, skills=skills)
        keys = PyJWKSet.from_dict((await http.get(keys_url)).json())

        def key_of(key_id: str | None, url: str | None) -> PyJWK:
            assert url == keys_url
            return keys[key_id or ""]

        # A process that was begun since then may sign with another key.
        database = Database(f"sqlite:///{harness.data_dir / 'orchestrator.db'}", "orchestrator")
        async with database.write() as connection:
            await connection.execute(tables.crew_revisions.update().values(created_at=utc_now() - timedelta(days=2)))
        await database.close()
        known = {"If-Modified-Since": format_datetime(utc_now() - timedelta(days=1), usegmt=True)}
        assert (await http.get(f"http://127.0.0.1:{port}{WELL_KNOWN}", headers=known)).status_code == 200
        verify = create_signature_verifier(key_of, ["EdDSA"])
        public = await A2ACardResolver(http, f"http://127.0.0.1:{port}").get_agent_card()
        extended = await agent(harness, DEV).GetExtendedAgentCard(pb.GetExtendedAgentCardRequest())
        for card in (public, extended):
            verify(card)
            card.skills[0].description = "changed"
            with pytest.raises(InvalidSignaturesError):
                verify(card)


async def test_an_operator_can_leave_all_of_it_out(tmp_path: Path) -> None:
    port = free_port()
    settings = {"orchestrator": OrchestratorSettings(a2a_enabled=False, a2a_http_port=port)}
    async with serve_services(tmp_path, "models", "orchestrator", settings=settings) as harness:
        await publish(harness)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent(harness).ListTasks(pb.ListTasksRequest())
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def _tenants(harness: Harness) -> list[str]:
    listed = await crews(harness, ALICE).ListPublications(a2a_pb2.ListPublicationsRequest())
    return [publication.tenant for publication in listed.publications]
