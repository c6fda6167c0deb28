"""Where a client connects and what its calls carry."""

import pytest

from coxswain.client import AsyncClient, Client, Connection, Tls
from coxswain.client.connection import with_request_id
from coxswain.orchestrator.v1.execution_pb2 import GetExecutionRequest, StartExecutionRequest


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COXSWAIN_ADDRESS", "COXSWAIN_TOKEN", "COXSWAIN_GROUP"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("address", "target", "encrypted"),
    [
        ("", "127.0.0.1:50051", False),
        ("example.com:1234", "example.com:1234", False),
        ("http://example.com:1234", "example.com:1234", False),
        ("https://example.com", "example.com:443", True),
        ("https://[::1]:50051/", "[::1]:50051", True),
        ("unix:/run/coxswain.sock", "unix:/run/coxswain.sock", False),
        ("dns:///coxswain:50051", "dns:///coxswain:50051", False),
    ],
)
def test_addresses_are_read_as_people_write_them(address: str, target: str, encrypted: bool) -> None:
    connection = Connection(address=address)
    assert connection.target == target
    assert (connection.credentials is not None) is encrypted


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com/api",
        "https://example.com:443/api",
        "http://user@example.com",
        "http://user:word@example.com:80",
        "https://example.com:443?x=1",
        "https://example.com:443#x",
        "https://",
        "https://:443",
    ],
)
def test_an_address_that_is_more_than_a_place_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected scheme, host and port only"):
        _ = Connection(address=address).target


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("localhost", "give a port, as in localhost:50051"),
        ("localhost:", "give a port, as in localhost:50051"),
        (":", "give a port, as in localhost:50051"),
        ("dns:///coxswain", "give a port, as in coxswain:50051"),
        ("::1", r"give a port, as in \[::1\]:50051"),
        ("[::1]", r"give a port, as in \[::1\]:50051"),
        ("localhost:abc", "'abc' is not a port; give a number from 1 to 65535"),
        ("localhost:70000", "'70000' is not a port"),
        ("https://localhost:abc", "'abc' is not a port"),
        ("auth=a:1,memory=b,models=c:3,orchestrator=d:4", "address 'b': give a port, as in b:50051"),
    ],
)
async def test_an_address_needs_a_port(address: str, words: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=words):
            kind(address)


FOUR = "auth=a:1,memory=https://m:2,models=ipv4:127.0.0.1:3,127.0.0.1:4, orchestrator=dns:///o:5"
AS_MAPPING = {
    "auth": "a:1",
    "memory": "https://m:2",
    "models": "ipv4:127.0.0.1:3,127.0.0.1:4",
    "orchestrator": "dns:///o:5",
}


@pytest.mark.parametrize("address", [FOUR, AS_MAPPING, ""])
def test_each_service_may_have_an_address_of_its_own(
    address: str | dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COXSWAIN_ADDRESS", FOUR)
    found = Connection(address=address, token="t", timeout=7).of_services()
    assert {service: connection.target for service, connection in found.items()} == AS_MAPPING | {"memory": "m:2"}
    assert [service for service, connection in found.items() if connection.credentials is not None] == ["memory"]
    assert {(connection.token, connection.timeout) for connection in found.values()} == {("t", 7)}


def test_one_address_is_that_of_every_service() -> None:
    connection = Connection(address="dns:///coxswain:50051")
    assert set(connection.of_services().values()) == {connection}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("auth=a:1,models=b:2", "none for memory, orchestrator; add memory=host:port"),
        ("auth=a:1,memory=,models=b:2,orchestrator=o:3", "none for memory"),
        (f"{FOUR},worker=w:1", "no service is called 'worker'; there are auth, memory, models, orchestrator"),
    ],
)
def test_a_list_of_addresses_that_is_not_complete_is_refused_before_any_call(address: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Client(address)


def test_the_environment_fills_in_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COXSWAIN_ADDRESS", "example.com:1")
    monkeypatch.setenv("COXSWAIN_TOKEN", "t")
    monkeypatch.setenv("COXSWAIN_GROUP", "sales")
    connection = Connection()
    assert connection.target == "example.com:1"
    assert {("authorization", "Bearer t"), ("x-group-id", "sales")} <= set(connection.metadata(None))
    mine = Connection(token="mine", group="legal")
    assert {("authorization", "Bearer mine"), ("x-group-id", "legal")} <= set(mine.metadata(None))
    assert not {"authorization", "x-group-id"} & set(dict(Connection("example.com:2").metadata(None)))


def test_a_token_never_shows_in_a_representation() -> None:
    assert "s3cret" not in repr(Connection(token="s3cret", tls=Tls(private_key=b"s3cret")))


def test_a_token_function_is_asked_for_each_call() -> None:
    tokens = iter(["one", "two"])
    connection = Connection(token=lambda: next(tokens))
    assert [dict(connection.metadata(None))["authorization"] for _ in range(2)] == ["Bearer one", "Bearer two"]


def test_what_a_caller_gives_has_precedence() -> None:
    connection = Connection(token="mine", group="sales")
    given = {"authorization": "Basic x", "x-group-id": "legal", "x-request-id": "r"}
    assert dict(connection.metadata(list(given.items()))) == given


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("unix:/a", True), ("example.com:1", False)],
)
def test_proxies_of_the_environment_are_not_asked_for_the_way_to_this_machine(address: str, local: bool) -> None:
    assert (("grpc.enable_http_proxy", 0) in Connection(address=address).options) is local


def test_a_request_without_an_id_gets_one_and_the_callers_message_stays_as_it_is() -> None:
    request = StartExecutionRequest(crew_id="c")
    filled = with_request_id(request)
    assert filled.request_id
    assert not request.request_id
    assert with_request_id(filled) is filled
    assert filled.request_id != with_request_id(request).request_id


def test_a_request_that_has_no_such_field_is_passed_on() -> None:
    request = GetExecutionRequest(id="e")
    assert with_request_id(request) is request
