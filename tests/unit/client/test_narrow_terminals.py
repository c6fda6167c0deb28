"""What people decide by stays whole on a terminal of 60 columns."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from coxswain.client.cli.doctor import findings_table
from coxswain.client.cli.findings import FAIL, OK, Finding
from coxswain.client.cli.models import _details_table, _listing
from coxswain.client.cli.schedule_view import schedule_table
from coxswain.client.cli.session import Session
from coxswain.models.v1.model_pb2 import Capabilities, CredentialAvailability, Model, Provider
from coxswain.orchestrator.v1.schedule_pb2 import Schedule

NARROW = 60


def lines(table: object, width: int = NARROW) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(table)
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in shown)
    return [line.rstrip() for line in shown]


def model(name: str, credential: CredentialAvailability.ValueType) -> Model:
    return Model(
        name=name,
        provider=Provider.PROVIDER_OPENAI,
        credential=credential,
        enabled=True,
        context_window=1_000_000,
        cached_input_cost_per_million_tokens=0.1,
        capabilities=Capabilities(chat=True, tools=True, json_schema=True, images=True),
        listed_fields=["cached_input_cost_per_million_tokens"],
    )


def test_models_show_whether_there_is_a_credential() -> None:
    long = "databricks/databricks-meta-llama-3-3-70b-instruct"
    header, first, second, third = lines(
        _listing(
            [
                model(long, CredentialAvailability.CREDENTIAL_AVAILABILITY_MISSING),
                model("openai/gpt-5", CredentialAvailability.CREDENTIAL_AVAILABILITY_AVAILABLE),
                model("offline/extract", CredentialAvailability.CREDENTIAL_AVAILABILITY_NOT_NEEDED),
            ]
        )
    )
    assert header.split() == ["name", "key"]
    assert (first.split(), second.split(), third.split()) == (
        [long, "missing"],
        ["openai/gpt-5", "yes"],
        ["offline/extract", "-"],
    )


@pytest.mark.parametrize("width", [NARROW, 100])
def test_what_a_model_is_said_to_be_is_not_folded(width: int) -> None:
    shown = lines(
        _details_table(model("openai/gpt-5", CredentialAvailability.CREDENTIAL_AVAILABILITY_MISSING), width), width
    )
    [price] = [line for line in shown if line.startswith("$ per million cached input tokens")]
    assert price.split("tokens")[1].split() == (["0.1"] if width == NARROW else ["0.1", "packaged", "list"])


def test_schedules_show_how_long_until_the_next_time() -> None:
    schedule = Schedule(name="weekly-report", cron="30 6 * * mon-fri", time_zone="Europe/Zurich")
    schedule.next_fire_time.FromDatetime(datetime.now(UTC) + timedelta(days=5, hours=1))
    header, row = lines(schedule_table([schedule]))
    assert header.split() == ["name", "cron", "next", "state", "zone"]
    assert " ".join(row.split()) == "weekly-report 30 6 * * mon-fri in 5d on Europe/Zurich"


def test_doctor_says_what_to_do_below_what_it_has_found() -> None:
    findings = [
        Finding("services", FAIL, "the server cannot be reached", "give the address of a server with --address"),
        Finding("tls", OK, "127.0.0.1:50051 is on this machine: no encryption is needed"),
    ]
    shown = lines(findings_table(Session(), findings, NARROW))
    assert shown[1:] == [
        "services  fail  the server cannot be reached",
        "                -> give the address of a server with",
        "                --address",
        "tls       ok    127.0.0.1:50051 is on this machine: no",
        "                encryption is needed",
    ]
    assert "what to do" in lines(findings_table(Session(), findings, 160), 160)[0]
