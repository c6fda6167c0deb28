"""Secrets on the command line, against real services: never an argument, never shown."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from tests.integration.client.command_line import Run, rows
from tests.support.harness import ALICE

ROOT = Path(__file__).parents[3]
VALUE = "s3cret-value-of-billing"


async def test_a_secret_is_stored_listed_explained_and_deleted(run: Run, tmp_path: Path) -> None:
    nowhere = await run("secret", "put", "tools/billing", stdin=VALUE)
    assert (nowhere.exit_code, "--origin" in nowhere.stderr) == (2, True)
    assert "no source of tools names it" in " ".join(nowhere.stderr.replace("│", " ").split())
    put = await run("secret", "put", "tools/billing", "--origin", "https://mcp.example.com", stdin=f"{VALUE}\n")
    assert put.exit_code == 0, put.stderr
    assert put.stdout.startswith("tools/billing stored for https://mcp.example.com; fingerprint ")
    assert "used by sources of tools that name it" in put.stdout
    file = tmp_path / "key"
    file.write_text(VALUE)
    same = rows(
        await run("secret", "put", "tools/billing", "-f", str(file), "--origin", "https://mcp.example.com", "--json")
    )
    listed = await run("secret", "list")
    assert same[0]["fingerprint"] in listed.stdout, "a line break at the end is no part of it"
    assert "sources of tools that name it" in listed.stdout
    assert (
        "tools/billing for https://mcp.example.com: found"
        in (await run("secret", "explain", "tools/billing", "--origin", "https://mcp.example.com")).stdout
    )
    elsewhere = await run("secret", "explain", "tools/billing", "--origin", "https://other.example.com")
    assert (elsewhere.exit_code, "none" in elsewhere.stdout) == (1, True)
    missing = await run("secret", "explain", "llm/openai")
    assert (missing.exit_code, "`coxswain secret put`" in missing.stdout) == (1, True)
    deleted = await run("secret", "delete", "tools/billing", "-y")
    assert deleted.stdout == "tools/billing deleted\n"
    assert (await run("secret", "delete", "tools/billing", "-y")).exit_code == 15
    assert (await run("secret", "list")).stdout == "no secrets\n"
    for result in (nowhere, put, listed, elsewhere, missing, deleted):
        assert VALUE not in result.stdout + result.stderr


async def test_what_a_source_names_is_stored_for_its_origin_and_other_names_are_warned_of(run: Run) -> None:
    stored = await run(
        "tool", "source", "create", "billing", "--mcp", "https://mcp.example.com/mcp", "--secret", "tools/b"
    )
    # No gateway is there to list it.
    assert stored.exit_code == 1
    assert stored.stdout == "billing stored, but not usable yet\n"
    put = await run("secret", "put", "tools/b", stdin=VALUE)
    assert put.stdout.startswith("tools/b stored for https://mcp.example.com;"), put.stderr
    assert put.stdout.endswith("; used by billing\n")
    assert "billing cannot be listed yet: " in put.stderr
    useless = await run("secret", "put", "billing", "--origin", "https://mcp.example.com", stdin=VALUE)
    assert (useless.exit_code, "nothing uses a secret of this name" in useless.stderr) == (0, True)
    bad = await run("secret", "put", "tools/x", "--origin", "mcp.example.com/x", stdin=VALUE)
    assert bad.exit_code == 13
    assert "--origin: must be an origin" in bad.stderr
    assert VALUE not in bad.stderr


async def test_on_a_terminal_the_value_is_asked_for_and_not_shown(run: Run) -> None:
    address = run.address
    person, terminal = os.openpty()
    # In a session of its own it has no other terminal to ask on.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coxswain.client", "--address", address, "--token", ALICE),
        *("secret", "put", "tools/search", "--origin", "https://search.example.com"),
        stdin=terminal,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stderr
    async with asyncio.timeout(60):
        asked = (await process.stderr.readuntil(b": ")).decode()
        os.write(person, f"{VALUE}\n".encode())
        stdout, stderr = await process.communicate()
    os.set_blocking(person, False)
    echoed = b""
    with contextlib.suppress(BlockingIOError):
        echoed = os.read(person, 1000)
    os.close(terminal)
    os.close(person)
    assert process.returncode == 0, stderr
    assert asked == "Value of tools/search: "
    assert "used by web_search" in stdout.decode()
    assert VALUE.encode() not in stdout + stderr + echoed
