"""Which lists are asked for beside calls that read them, and how many at once."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from services.common.clock import utc_now
from services.orchestrator.domain.tool_source import (
    AuthKind,
    McpServer,
    SourceAuth,
    SourceKind,
    ToolSource,
    ToolSourceSpec,
)
from services.orchestrator.usecases.tool_listing import ToolListing

OLD = utc_now() - timedelta(days=1)


def old_source(name: str, auth: AuthKind = AuthKind.NONE) -> ToolSource:
    spec = ToolSourceSpec(name, SourceKind.MCP, McpServer("https://mcp.example.com"), auth=SourceAuth(auth))
    return ToolSource(name, "sales", 1, spec, (), OLD, OLD, listed_at=OLD, checked_at=OLD, list_revision=1)


class HeldListing(ToolListing):
    """Lists nothing before the gate opens, and counts."""

    def __init__(self) -> None:
        nothing = cast("Any", None)
        super().__init__(nothing, nothing, nothing, max_age_seconds=3600)
        self.gate = asyncio.Event()
        self.asked: list[str] = []

    async def refresh(self, source: ToolSource) -> ToolSource:
        self.asked.append(source.id)
        await self.gate.wait()
        return source

    async def settle(self) -> None:
        """Let all tasks go as far as they can."""
        for _ in range(200):
            await asyncio.sleep(0)


async def test_readers_of_many_old_lists_have_few_asked_for_at_once_and_each_once() -> None:
    listing = HeldListing()
    sources = [old_source(f"s{index}") for index in range(20)]
    for source in sources * 3:
        listing.refresh_for_reader(source)
    await listing.settle()
    assert len(listing.asked) == 4
    listing.gate.set()
    await listing.settle()
    assert sorted(listing.asked) == sorted(source.id for source in sources)
    # Another reader later has an old one asked for again.
    listing.refresh_for_reader(sources[0])
    await listing.settle()
    assert listing.asked.count("s0") == 2
    listing.refresh_for_reader(replace(sources[0], checked_at=utc_now()))
    await listing.settle()
    assert listing.asked.count("s0") == 2
    await listing.close()


@pytest.mark.parametrize(
    ("auth", "asked"),
    [(AuthKind.NONE, True), (AuthKind.SECRET, True), (AuthKind.CALLER, False), (AuthKind.DATABRICKS, False)],
)
async def test_a_reader_does_not_have_a_list_asked_for_with_their_own_rights(auth: AuthKind, asked: bool) -> None:
    listing = HeldListing()
    listing.gate.set()
    listing.refresh_for_reader(old_source("own", auth))
    await listing.settle()
    assert bool(listing.asked) is asked
    await listing.close()


async def test_who_has_changed_a_source_does_not_get_the_list_that_was_asked_for_before() -> None:
    gate, asked = asyncio.Event(), list[int]()

    class Listing(ToolListing):
        async def _list(self, source: ToolSource) -> ToolSource:
            asked.append(source.revision)
            await gate.wait()
            return source

    nothing = cast("Any", None)
    listing = Listing(nothing, nothing, nothing, max_age_seconds=3600)
    before = old_source("s")
    changed = replace(before, revision=2)
    waiting = [asyncio.create_task(listing.refresh(source)) for source in (before, before, changed)]
    await HeldListing.settle(cast("Any", listing))
    gate.set()
    assert [source.revision for source in await asyncio.gather(*waiting)] == [1, 1, 2]
    assert asked == [1, 2]
    await listing.close()
