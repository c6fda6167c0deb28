"""`coxswain doctor` against real services."""

import json

from coxswain.client.version import VERSION
from tests.integration.client.command_line import Run, invoke


async def test_each_check_has_a_line_with_what_to_do(run: Run) -> None:
    result = await run("doctor", "--json")
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    found = {finding["check"]: finding for finding in report["findings"]}
    states = {name: finding["status"] for name, finding in found.items() if not name.startswith("credential")}
    assert states == {
        "tls": "ok",
        "services": "ok",
        "releases": "ok",
        "identity": "ok",
        "clock": "ok",
        "workers": "fail",
        "tool gateway": "warn",
        "queue": "ok",
        "models": "ok",
        "limits": "ok",
    }
    assert found["identity"]["text"] == "you are dev|alice, admin of sales"
    assert found["releases"]["text"] == (
        f"this client and the processes of auth, memory, models, orchestrator that answered are of release {VERSION}"
    )
    assert found["credential llm/openai"] == {
        "check": "credential llm/openai",
        "status": "warn",
        "text": "there is none",
        "remedy": "`coxswain secret explain llm/openai` says more",
    }
    assert all(finding["remedy"] for finding in report["findings"] if finding["status"] != "ok")
    lines = (await run("doctor")).stdout.splitlines()
    assert len(lines) == 1 + len(report["findings"])
    assert any(line.split()[:2] == ["workers", "fail"] for line in lines)
    refused = json.loads((await run("doctor", "--json", token="nonsense")).stdout)["findings"]
    states = {finding["check"]: finding["status"] for finding in refused}
    assert states == {"tls": "ok", "services": "ok", "releases": "ok", "identity": "fail"}, (
        "the others would fail for the same reason"
    )
    assert "--token" in refused[-1]["remedy"]


def test_a_server_that_is_not_there_is_the_only_finding() -> None:
    result = invoke("127.0.0.1:1", "doctor")
    assert result.exit_code == 1
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [["tls", "ok"], ["services", "fail"]]
    assert "coxswain up" in result.stdout
