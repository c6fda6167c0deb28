"""Contains crew processes: each opens Python's files and a directory of its own, and reaches nothing but its host.

What the kernel can do is found out once, with a process that is forked for that and runs a practice task. From then on
every crew process is contained so, or ends.
"""

import json
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator

from services.common.containment.contain import Measure, Profile, contain
from services.common.containment.python_files import python_files
from services.orchestrator.worker.crew.guard import close_off
from services.orchestrator.worker.link.containment import own_directory

_MOST_BYTES = 4096
_MEASUREMENTS = "COVERAGE_FILE"
"""Where coverage measurement keeps its files; set by nothing but test runs."""


class CrewContainment:
    """How the crew processes of one fork server are contained; not at all unless they are `wanted` so."""

    def __init__(self, home: str, *, wanted: bool) -> None:
        """`home` is the directory that their directories are made in."""
        self._home = home
        self._wanted = wanted
        self._readable = python_files() if wanted else ()
        self.measures: frozenset[Measure] = frozenset()
        """What holds for each of them."""

    def try_out(self, practise: Callable[[], object]) -> None:
        """Find out which measures can be had with which a process still does what `practise` does."""
        if not self._wanted:
            return
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                held = self.enter("trial")
                practise()
                os.write(writer, json.dumps(sorted(held)).encode())
                status = 0
            except Exception:  # noqa: BLE001 - whatever it is, crews cannot work like this
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            answer = file.read(_MOST_BYTES)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            self.measures = frozenset(map(Measure, json.loads(answer)))

    def enter(self, name: str) -> frozenset[Measure]:
        """Contain this process, which has just been forked, with `own_directory` of its name; return what holds.

        Raises:
            NotContained: less holds than was found out.
        """
        directory = os.path.join(self._home, own_directory(os.getpid(), name))  # noqa: PTH118 - see `proc_files`
        os.mkdir(directory, 0o700)  # noqa: PTH102
        os.chdir(directory)
        os.environ.update(HOME=directory, TMPDIR=directory, CREWAI_STORAGE_DIR=directory)
        tempfile.tempdir = directory
        held = frozenset[Measure]()
        if self._wanted:
            held = contain(Profile(self._readable, (directory, *_measurements())), required=self.measures)
        if Measure.CALL_FILTER not in held:
            close_off()
        return held


def _measurements() -> Iterator[str]:
    if file := os.environ.get(_MEASUREMENTS):
        yield os.path.dirname(file)  # noqa: PTH120 - see `proc_files`
