"""The kernel keeps processes that read what comes from outside to Python's files and what they hold."""

import os
import struct
from dataclasses import asdict
from itertools import product
from pathlib import Path

import pytest

from services.common import kernel
from services.common.child_process import ChildProcess
from services.common.containment.call_filter import program
from services.common.containment.contain import Measure, Profile, contain
from services.common.containment.file_rules import landlock_version
from services.common.containment.python_files import python_files
from services.common.containment.system_calls import MACHINES, allowed_calls
from services.common.helper_process import HelperProcess
from tests.support.child_process import ROOT, run_python
from tests.support.surroundings import not_refused, surroundings

_ALLOWED = 0x7FFF0000
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_OF_32_BITS = 0x40000003
_READER = """
import contextlib, sys
from services.common.containment import contain
with contextlib.suppress(OSError):
    contain._give_up_capabilities()
try:
    open(f"/proc/{sys.argv[1]}/environ", "rb").close()
except OSError:
    print("refused")
"""
_KEPT = """
import contextlib, subprocess, sys, os
from services.common.containment.contain import _give_up_capabilities, keep_memory_private
# Those of root may not be read by those without its capabilities anyway.
with contextlib.suppress(OSError):
    _give_up_capabilities()
reader = [sys.executable, "-c", sys.argv[1], str(os.getpid())]
subprocess.run(reader, check=True)
print("private:", flush=True)
with contextlib.suppress(OSError):
    keep_memory_private()
subprocess.run(reader, check=True)
"""


async def test_a_helper_program_reaches_nothing(tmp_path: Path) -> None:
    helper = HelperProcess(ROOT / "tests/support/probing_helper.py", longest_seconds=60)
    sibling = await ChildProcess.start(["sleep", "600"], environment={})
    try:
        async with surroundings(tmp_path, sibling.pid, tmp_path / "keys") as around:
            found = await helper.ask("group", {"around": asdict(around)})
    finally:
        await helper.close()
        await sibling.stop()
    # Whose memory is private is not its business: its sibling's is not.
    assert not_refused(found, holding_here() - {Measure.PRIVATE_MEMORY}) == {}


def holding_here(before: str = "") -> set[Measure]:
    """Return which measures the kernel takes."""
    code = f"{before}\nfrom services.common.containment.contain import *; print(*contain(Profile(())))"
    status, output = run_python(["-c", code])
    assert status == 0, output
    return set(map(Measure, output.split()))


def test_files_are_kept_from_it_wherever_there_is_landlock() -> None:
    assert (Measure.FILE_RULES in holding_here()) == (landlock_version() > 0)


def test_rights_that_the_kernel_does_not_take_are_left_to_an_older_version() -> None:
    not_known = "from services.common.containment import file_rules\nfile_rules._FILES += ((VERSION, 1 << 62),)"
    holding = holding_here(not_known.replace("VERSION", str(max(landlock_version(), 1))))
    assert (Measure.FILE_RULES in holding) == (landlock_version() > 1)


def test_other_processes_of_the_user_cannot_read_what_is_kept_private() -> None:
    # Outside Linux there is no such file to begin with.
    before = "" if Path("/proc/self/environ").exists() else "refused\n"
    assert run_python(["-c", _KEPT, _READER]) == (0, f"{before}private:\nrefused")


@pytest.mark.parametrize("connects", [False, True])
@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_allows_what_is_listed_and_nothing_else(machine: str, *, connects: bool) -> None:
    allowed = allowed_calls(machine, connects=connects)
    code = program(allowed, machine)
    native, others = _ARCHITECTURES[machine], set(_ARCHITECTURES.values()) | {_OF_32_BITS}
    numbers = [*range(600), 0x40000000, 0x40000000 | 39, 0xFFFFFFFF]
    passed = {number for number in numbers if _run(code, number, native) == _ALLOWED}
    # Those with conditions pass only with the right arguments: none of these have arguments that are all 1.
    assert passed == allowed.always
    for other in others - {native}:
        assert not {number for number in numbers if _run(code, number, other) == _ALLOWED}
    for number, conditions in allowed.conditional.items():
        arguments = [0xFFFFFFFF] * 12
        for each in conditions:
            arguments[each.index * 2 + each.upper_half] = each.values[-1]
        assert _run(code, number, native, arguments) == _ALLOWED
        for each in conditions:
            wrong = list(arguments)
            wrong[each.index * 2 + each.upper_half] ^= each.mask & 0xFFFFFFFF
            assert _run(code, number, native, wrong) != _ALLOWED


@pytest.mark.parametrize(("name", "index"), [("open", 1), ("openat", 2)])
def test_what_may_only_be_read_is_not_emptied_by_opening_it(name: str, index: int) -> None:
    """Landlock sees to that from its version 3 on alone."""
    number, code = {"open": 2, "openat": 257}[name], program(allowed_calls("x86_64"), "x86_64")
    passed = set()
    for mode, emptied in product((os.O_RDONLY, os.O_WRONLY, os.O_RDWR), (0, os.O_TRUNC)):
        arguments = [0] * 12
        arguments[index * 2] = mode | emptied | os.O_CREAT | os.O_APPEND
        if _run(code, number, _ARCHITECTURES["x86_64"], arguments) == _ALLOWED:
            passed.add((mode, emptied))
    assert passed == {(mode, emptied) for mode in (os.O_WRONLY, os.O_RDWR) for emptied in (0, os.O_TRUNC)} | {
        (os.O_RDONLY, 0)
    }


def _run(code: bytes, number: int, architecture: int, arguments: list[int] | None = None) -> int:
    """Run a filter as the kernel does."""
    data = struct.pack("<IIQ12I", number, architecture, 0, *(arguments or [0xFFFFFFFF] * 12))
    accumulator = position = 0
    while True:
        operation, true, false, value = struct.unpack_from("<HBBI", code, position * 8)
        position += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x06:
                return int(value)
            case _:
                holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}[operation]
                position += true if holds else false


def test_what_lies_beside_packages_is_not_read() -> None:
    readable = [Path(path) for path in python_files()]
    assert not [path for path in readable if ROOT.is_relative_to(path)]
    assert any((ROOT / "services/common/ids.py").is_relative_to(path) for path in readable)
    assert any(Path(pytest.__file__).resolve().is_relative_to(path) for path in readable)


def test_a_kernel_that_is_not_known_contains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_libc", None)
    assert contain(Profile(())) == set()
