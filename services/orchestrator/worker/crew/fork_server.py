"""The fork server: imports CrewAI once, then forks a crew process for each request of its host.

`multiprocessing` has one, but its children keep the environment the host was started with readable in /proc and hold
its life line open, and a module that fails to preload goes unnoticed.

On the control socket, messages of JSON: {"fork": token} with the crew process's end of its link attached, answered by
{"forked": token, "pid": pid}; {"kill": pid}; and, whenever a crew process ends, {"exited": pid, "status": status,
"cpu_seconds": used}. The first message is {"ready": pid, "measures": [...]}, what contains each crew process. When the
host goes away the control socket ends, and with it everything here.

A crew process has a directory below the home of the fork server (`own_directory`): no other crew process reads what
it writes there. It greets its host with one byte on its link once it is contained, before the first frame.
"""

import array
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from typing import Any

from services.common.containment.contain import keep_memory_private, open_memory_again
from services.common.parent_death import die_with_parent
from services.orchestrator.worker.crew.containment import CrewContainment
from services.orchestrator.worker.crew.huge_pages import collapse_memory
from services.orchestrator.worker.link.containment import is_wanted

_MAX_MESSAGE = 4096


class ForkServer:
    """Forks, reaps and kills crew processes; `control` is a SOCK_SEQPACKET connection to the host."""

    def __init__(self, control: socket.socket, containment: CrewContainment) -> None:
        self._control = control
        self._containment = containment
        self._children: set[int] = set()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)

    def run(self) -> None:
        """Serve until the host goes away."""
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._send({"ready": os.getpid(), "measures": sorted(self._containment.measures)})
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._wake_reader in ready:
                    os.read(self._wake_reader, _MAX_MESSAGE)
                    self._reap()
                if self._control.fileno() in ready and not self._serve_one(selector):
                    break
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _serve_one(self, selector: selectors.BaseSelector) -> bool:
        """Do what one message asks for; False when there will be no more."""
        data, descriptors = self._receive()
        if not data:
            return False
        message = json.loads(data)
        if "fork" in message:
            self._fork(message["fork"], descriptors[0], selector)
        elif message["kill"] in self._children:  # not reaped yet, so the id is still this child's
            os.kill(message["kill"], signal.SIGKILL)
        return True

    def _receive(self) -> tuple[bytes, list[int]]:
        descriptors = array.array("i")
        try:
            data, ancillary, _, _ = self._control.recvmsg(_MAX_MESSAGE, socket.CMSG_SPACE(descriptors.itemsize))
        except ConnectionError:
            return b"", []
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
        return data, list(descriptors)

    def _fork(self, token: int, descriptor: int, selector: selectors.BaseSelector) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(parent, token, descriptor, selector)
        self._children.add(pid)
        os.close(descriptor)
        self._send({"forked": token, "pid": pid})

    def _become_child(self, parent: int, token: int, descriptor: int, selector: selectors.BaseSelector) -> None:
        from services.orchestrator.worker.crew import child

        status = 1
        try:
            die_with_parent(parent)
            # For its own files in /proc, until it is contained.
            with contextlib.suppress(OSError):
                open_memory_again()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            selector.close()
            for inherited in (self._control.fileno(), self._wake_reader, self._wake_writer):
                os.close(inherited)
            status = child.serve(socket.socket(fileno=descriptor), self._containment, token)
        except Exception:  # noqa: BLE001 - nobody is left to handle it
            traceback.print_exc()
        finally:
            # No cleaning up of what the fork server owns: not its atexit handlers, not its threads' leftovers.
            os._exit(status)

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children.discard(pid)
            cpu_seconds = used.ru_utime + used.ru_stime
            self._send({"exited": pid, "status": os.waitstatus_to_exitcode(status), "cpu_seconds": cpu_seconds})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):  # the host is gone; the next read says so
            self._control.send(json.dumps(message).encode())


def main() -> None:
    """Warm up, then serve on the control socket whose descriptor is the first argument."""
    die_with_parent(os.getppid())
    # A terminal's Ctrl-C and a supervisor's SIGTERM are the host's business; it tells us by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What is imported stays: looking for garbage in it takes a tenth of the start.
    gc.disable()
    from services.orchestrator.worker.crew.preload import practise, preload

    preload()
    gc.enable()
    collapse_memory()
    wanted = is_wanted(os.environ)
    containment = CrewContainment(os.environ["HOME"], wanted=wanted)
    containment.try_out(practise)
    if wanted:
        with contextlib.suppress(OSError):
            keep_memory_private()
    ForkServer(socket.socket(fileno=int(sys.argv[1])), containment).run()


if __name__ == "__main__":
    main()
