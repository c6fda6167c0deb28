"""A process that is asked to stop while it starts ends, also as the first process of a container."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.child_process import ROOT, ChildProcess, free_port, scrubbed_environment

PROGRAMS = [
    "services.auth",
    "services.models",
    "services.memory",
    "services.orchestrator",
    "services.orchestrator.tool_gateway",
    "services.orchestrator.worker",
    "services.suite",
]


@pytest.mark.parametrize("module", PROGRAMS)
def test_signals_come_before_any_import_that_takes_time(module: str) -> None:
    main = ROOT / module.replace(".", "/") / "__main__.py"
    imports = [line for line in main.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert imports[0] == "from services.common.first_signals import end_on_signals"
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, services.common.first_signals, {module.rpartition('.')[0]}; print(*sys.modules)",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"asyncio", "grpc", "pydantic", "sqlalchemy", "structlog"} & set(loaded)


# Root may make a namespace of processes; anybody else first needs one of users.
_USERS = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
AS_FIRST_PROCESS = ["unshare", *_USERS, "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable]


@pytest.fixture
def _namespaces() -> None:
    """Skip the test where this user may not make a namespace, as in a chroot."""
    try:
        made = subprocess.run([*AS_FIRST_PROCESS, "-c", ""], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if made.returncode != 0:
        pytest.skip(made.stderr.strip())


@pytest.mark.usefixtures("_namespaces")
def test_the_first_process_of_a_container_ends_while_it_imports(tmp_path: Path) -> None:
    # The kernel passes on to the first process only those signals that it has a handler for.
    started = subprocess.Popen(
        [*AS_FIRST_PROCESS, "-m", "services.orchestrator.worker"],
        cwd=ROOT,
        env=scrubbed_environment(tmp_path, COXSWAIN_DATA_DIR=str(tmp_path / "data")),
    )
    try:
        while started.poll() is None:
            for below in psutil.Process(started.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    below.send_signal(signal.SIGTERM)
            time.sleep(0.01)
    finally:
        started.kill()
    # Not 0: it would have ended in its own good time, with the event loop running.
    assert started.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "data").exists()


LEAVES_AN_ORPHAN = """
import os, signal, sys, time
from services.common.first_signals import end_on_signals

end_on_signals()
reader, writer = os.pipe()
middle = os.fork()
if middle == 0:
    orphan = os.fork()
    if orphan == 0:
        time.sleep(3600)
    os.write(writer, str(orphan).encode())
    os._exit(0)
os.waitpid(middle, 0)
orphan = int(os.read(reader, 20))
os.kill(orphan, signal.SIGKILL)
deadline = time.monotonic() + 60
while os.path.exists(f"/proc/{orphan}"):
    if time.monotonic() > deadline:
        sys.exit(f"{orphan} is not reaped")
    time.sleep(0.005)
print("process", os.getpid())
sys.exit(7)
"""


@pytest.mark.usefixtures("_namespaces")
def test_the_first_process_of_a_container_reaps_what_it_inherits_and_ends_as_the_program_does() -> None:
    done = subprocess.run(
        [*AS_FIRST_PROCESS, "-c", LEAVES_AN_ORPHAN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "process 2\n", "")


@pytest.mark.parametrize("module", ["services.models", "services.orchestrator.worker", "services.suite"])
def test_a_process_that_waits_for_its_database_can_be_stopped(module: str, tmp_path: Path) -> None:
    environment = scrubbed_environment(
        tmp_path,
        COXSWAIN_DATA_DIR=str(tmp_path / "data"),
        COXSWAIN_DATABASE_URL=f"postgresql://coxswain@127.0.0.1:{free_port()}/coxswain",
        COXSWAIN_DATABASE_WAIT_SECONDS="600",
        # Who finds a port taken ends before it looks for its database.
        COXSWAIN_PORT="0",
        COXSWAIN_MODELS_PORT="0",
        COXSWAIN_MODELS_INTERNAL_PORT="0",
        COXSWAIN_METRICS_PORT="0",
    )
    with ChildProcess(module, ["-m", module], environment) as process:
        process.wait_for_line("database_awaited")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "Traceback" not in process.output
