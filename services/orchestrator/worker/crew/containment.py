"""Contains crew processes: each opens Python's files and a directory of its own, and reaches nothing but its host.

What the kernel can do is found out once, with a process that is forked for that and runs a practice task. From then on
every crew process is contained so, or ends.
"""

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from services.common.containment.contain import Measure, Profile, contain
from services.common.containment.python_files import python_files
from services.common.remove_tree import remove_tree
from services.orchestrator.worker.crew.guard import close_off
from services.orchestrator.worker.link.containment import own_directory

_MOST_BYTES = 4096
_PRACTICE_SECONDS = 60.0
_SUSPECTS = ({Measure.CALL_FILTER}, {Measure.FILE_RULES}, {Measure.CALL_FILTER, Measure.FILE_RULES})
"""What is left out, one after the other, where a process fails under all measures."""


class CrewContainment:
    """How the crew processes of one fork server are contained; not at all unless they are `wanted` so."""

    def __init__(self, home: str, *, wanted: bool) -> None:
        """`home` is the directory that their directories are made in."""
        self._home = home
        self._wanted = wanted
        self._readable = python_files() if wanted else ()
        self.measures: frozenset[Measure] = frozenset()
        """What contains each of them."""

    def try_out(self, practise: Callable[[], object]) -> None:
        """Find out by which measures a process can be contained that still does what `practise` does.

        Standard error says why a process failed under some; one that takes too long has failed.
        """
        if not self._wanted:
            return
        everything = frozenset(Measure)
        # Twice: on a machine that is busy for the moment the first one may only have taken too long.
        for tried in (everything, everything, *(everything - left_out for left_out in _SUSPECTS)):
            held = self._held_after(practise, tried)
            if held is not None:
                self.measures = held
                return

    def _held_after(self, practise: Callable[[], object], tried: frozenset[Measure]) -> frozenset[Measure] | None:
        """Return which of the measures hold for a process that has practised; None if it has not managed to."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                # The kernel ends it then, whatever hangs.
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, _PRACTICE_SECONDS)
                held = self._contain("trial", tried)
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
        remove_tree(Path(self._home, own_directory(pid, "trial")))
        if status == 0:
            return frozenset(map(Measure, json.loads(answer)))
        ending = os.waitstatus_to_exitcode(status)
        sys.stderr.write(f"contained by {', '.join(sorted(tried))}, a crew of practice ended with status {ending}\n")
        return None

    def enter(self, name: str) -> frozenset[Measure]:
        """Contain this process, which has just been forked, with `own_directory` of its name; return what holds.

        Raises:
            NotContained: less holds than was found out.
        """
        return self._contain(name, self.measures, required=self.measures)

    def _contain(
        self, name: str, measures: frozenset[Measure], required: frozenset[Measure] = frozenset()
    ) -> frozenset[Measure]:
        directory = os.path.join(self._home, own_directory(os.getpid(), name))  # noqa: PTH118 - see `proc_files`
        os.mkdir(directory, 0o700)  # noqa: PTH102
        os.chdir(directory)
        os.environ.update(HOME=directory, TMPDIR=directory, CREWAI_STORAGE_DIR=directory)
        tempfile.tempdir = directory
        held = contain(Profile(self._readable, (directory,)), measures, required=required)
        if Measure.CALL_FILTER not in held:
            close_off()
        return held
