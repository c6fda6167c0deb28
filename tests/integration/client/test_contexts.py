"""Several installations on the command line: what is kept of them, for whom, and where tokens go."""

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner, Result

from coxswain.client.cli.app import app
from coxswain.client.cli.contexts import Context, Contexts, save_contexts
from coxswain.client.cli.global_options import GlobalOptions
from coxswain.client.cli.login import _resolved
from tests.integration.client.installation import Installation, Server, reason, refuse

SECRET = "dev:alice:sales=editor"
Coxswain = Callable[..., Result]


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ADDRESS", "TOKEN", "GROUP", "CONTEXT"):
        monkeypatch.delenv(f"COXSWAIN_{name}", raising=False)
    path = tmp_path / "config" / "contexts.json"
    monkeypatch.setenv("COXSWAIN_CONTEXTS", str(path))
    return path


@pytest.fixture
def coxswain(contexts: Path) -> Coxswain:
    def run(*arguments: str, stdin: str = "") -> Result:
        result = CliRunner().invoke(app, arguments, input=stdin)
        if contexts.exists():
            assert stat.S_IMODE(contexts.stat().st_mode) == 0o600
        assert SECRET not in result.output
        return result

    return run


@pytest.fixture
def other() -> Iterator[tuple[Installation, Server]]:
    installation = Installation()  # type: ignore[abstract]
    server = installation.serve()
    yield installation, server
    server.stop()


def test_a_token_goes_to_the_installation_it_was_given_for_alone(
    server: Server, installation: Installation, other: tuple[Installation, Server], coxswain: Coxswain
) -> None:
    second, elsewhere = other
    made = coxswain("login", "here", "--address", server.address, "--group", "sales", stdin=f"{SECRET}\n")
    assert made.exit_code == 0, made.stderr
    assert coxswain("whoami").exit_code == 0
    assert coxswain("whoami", "--address", elsewhere.address).exit_code == 0
    assert coxswain("login", "there", "--address", elsewhere.address, "--token", "dev:bob:legal=admin").exit_code == 0
    assert coxswain("--context", "here", "whoami").exit_code == 0
    assert coxswain("whoami", "--context", "here", "--group", "other").exit_code == 0
    assert coxswain("context", "use", "here").stdout == "using here\n"

    def sent(calls: Installation) -> list[tuple[object, object]]:
        return [(one.get("authorization"), one.get("x-group-id")) for one in calls.metadata]

    assert sent(installation) == [(f"Bearer {SECRET}", "sales")] * 3 + [(f"Bearer {SECRET}", "other")]
    assert sent(second) == [(None, None), ("Bearer dev:bob:legal=admin", None)]
    both = coxswain("whoami", "--context", "here", "--address", elsewhere.address)
    assert (both.exit_code, "either --context or --address" in both.stderr) == (2, True)
    [here, there] = json.loads(coxswain("context", "--json").stdout)
    assert (here["current"], there["current"], here["token"]) == (True, False, "kept")
    assert coxswain("logout").stdout == "here: logged out\n"
    assert coxswain("context", "delete", "there").exit_code == 0
    [here] = json.loads(coxswain("contexts", "list", "--json").stdout)
    assert (here["name"], here["token"], here["address"]) == ("here", "none", server.address)


def test_a_login_again_goes_to_the_same_installation_with_what_is_known_of_it(
    server: Server,
    installation: Installation,
    other: tuple[Installation, Server],
    coxswain: Coxswain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second, elsewhere = other

    def login(*arguments: str) -> int:
        return coxswain("login", *arguments, stdin=f"{SECRET}\n").exit_code

    assert login("here", "--address", server.address, "--group", "sales") == 0
    assert login() == 0
    monkeypatch.setenv("COXSWAIN_ADDRESS", elsewhere.address)
    assert login("here") == login("--context", "here") == 0
    monkeypatch.setenv("COXSWAIN_CONTEXT", "here")
    assert login() == 0
    assert [one["x-group-id"] for one in installation.metadata] == ["sales"] * 5
    monkeypatch.delenv("COXSWAIN_ADDRESS")
    assert login("--address", elsewhere.address) == 2
    assert not second.metadata
    assert login("here", "--address", elsewhere.address) == 0
    [here] = json.loads(coxswain("context", "--json").stdout)
    assert (here["address"], here["group"]) == (elsewhere.address, "")
    assert "COXSWAIN_CONTEXT=here" not in coxswain("context", "use", "here").stderr
    monkeypatch.setenv("COXSWAIN_CONTEXT", "another")
    assert "COXSWAIN_CONTEXT=another is set" in coxswain("context", "use", "here").stderr


def test_a_login_again_keeps_tls_and_authorities(contexts: Path) -> None:
    known = Contexts("", {"far": Context("far.example.com:443", "old", "sales", tls=True, ca_file="/ca.pem")})
    save_contexts(known)
    name, options = _resolved(GlobalOptions(), "far", known)
    assert (name, options.address, options.group, options.tls) == ("far", "far.example.com:443", "sales", True)
    assert (options.ca_file, options.token) == (Path("/ca.pem"), None)
    assert _resolved(GlobalOptions(address="far.example.com:444"), "far", known)[1].ca_file is None


def test_a_context_keeps_a_name_that_new_ones_may_not_have(server: Server, coxswain: Coxswain) -> None:
    save_contexts(Contexts("", {"our own": Context(server.address)}))
    assert coxswain("login", "our own", stdin=f"{SECRET}\n").exit_code == 0
    assert coxswain("login", "our second", stdin=f"{SECRET}\n").exit_code == 2


def test_a_logout_forgets_the_token_of_the_context_that_is_given(contexts: Path, coxswain: Coxswain) -> None:
    save_contexts(Contexts("here", {name: Context("127.0.0.1:1", "kept") for name in ("here", "there")}))
    assert coxswain("logout", "--context", "there").stdout == "there: logged out\n"
    tokens = {one["name"]: one["token"] for one in json.loads(coxswain("context", "--json").stdout)}
    assert tokens == {"here": "kept", "there": "none"}


def test_contexts_that_cannot_be_used_can_be_listed_left_and_deleted(contexts: Path, coxswain: Coxswain) -> None:
    gone = str(contexts.parent / "gone.pem")
    save_contexts(Contexts("far", {"far": Context("127.0.0.1:1", ca_file=gone), "here": Context("127.0.0.1:2")}))
    assert coxswain("whoami").exit_code == 2
    assert coxswain("context").exit_code == 0
    assert coxswain("context", "use", "far").stdout == "using far\n"
    assert coxswain("context", "delete", "far").stdout == "far deleted\n"
    assert coxswain("--context", "far", "context", "use", "here").stdout == "using here\n"


def test_a_token_that_is_refused_is_not_kept(
    server: Server, installation: Installation, contexts: Path, coxswain: Coxswain
) -> None:
    installation.faults["WhoAmI"] = [
        lambda context: refuse(context, grpc.StatusCode.UNAUTHENTICATED, "expired", reason("CREDENTIAL_EXPIRED"))
    ]
    assert coxswain("login", "--address", server.address, stdin=f"{SECRET}\n").exit_code == 26
    assert coxswain("login", "--address", server.address).exit_code == 2
    assert not contexts.exists()
    assert "no contexts" in coxswain("context").stdout


def test_a_file_that_others_may_read_or_that_is_broken_is_not_used(contexts: Path, coxswain: Coxswain) -> None:
    contexts.parent.mkdir()
    contexts.touch(mode=0o600)
    assert "log in again" in coxswain("whoami").stderr
    contexts.write_text('{"current": "gone", "contexts": {}}')
    assert "there is no context 'gone'; there are: none yet" in coxswain("whoami").stderr
    contexts.chmod(0o644)
    result = CliRunner().invoke(app, ["whoami"])
    assert (result.exit_code, "others may read it: chmod 600" in result.stderr) == (2, True)
