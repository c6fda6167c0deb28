"""Crew processes are told of no collector: what they do is recorded by their host."""

from pathlib import Path

from services.orchestrator.worker.host.crew_environment import crew_environment


def test_a_crew_process_sends_no_traces_even_where_its_host_does(tmp_path: Path) -> None:
    host = {"PATH": "/bin", "COXSWAIN_TRACES": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example.com"}
    environment = crew_environment(tmp_path, environment=host)
    assert not [name for name in environment if name.startswith("OTEL_")]
    assert "COXSWAIN_TRACES" not in environment
    assert environment["CREWAI_DISABLE_TELEMETRY"] == "true"
    assert environment["CREWAI_TRACING_ENABLED"] == "false"
