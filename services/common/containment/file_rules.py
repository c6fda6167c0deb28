"""Landlock: which files a process may open."""

import ctypes
import errno
import os
from collections.abc import Iterable

from services.common import kernel

_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH, _NETWORK_PORT = 1, 2  # LANDLOCK_RULE_PATH_BENEATH, LANDLOCK_RULE_NET_PORT

_WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 1, 1 << 2, 1 << 3
_READ = _READ_FILE | _READ_DIRECTORY
_TRUNCATE = 1 << 14
_CHANGE = (
    *(1 << 4, 1 << 5),  # remove directories and files
    *(1 << 7, 1 << 8, 1 << 10, 1 << 12),  # make directories, files, pipes and symbolic links
    1 << 13,  # move between directories
)
# Rights over files, over networks and over other processes, each with the version of Landlock that introduced it.
_FILES = ((1, (1 << 13) - 1), (2, 1 << 13), (3, _TRUNCATE), (5, 1 << 15), (9, 1 << 16))
_NETWORKS = ((4, 0b11), (10, 0b1100))
_TCP, _CONNECT_TCP = 0b11, 0b10
_OTHERS = ((6, 0b11),)


class _Rights(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("networks", ctypes.c_uint64), ("others", ctypes.c_uint64))


class _Port(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def landlock_version() -> int:
    """Return which version of Landlock there is; 0 where there is none."""
    try:
        return kernel.system_call("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return 0


def restrict_files(readable: Iterable[str], writable: Iterable[str], ports: Iterable[int] | None = None) -> None:
    """Have every other use of a path refused, for good; "no new privileges" has to hold.

    A directory stands for all below it; paths that do not exist are left out. The null device may be used. Below
    `writable` files may be made and removed as well, but no devices or sockets, and no program may be started. What is
    open stays so. Where Landlock knows of them, connections are refused too, but for those over TCP to `ports` and,
    where there are any, over UDP; and signals to processes that were not started from this one.

    Raises:
        OSError: the kernel does not do that.
    """
    version = landlock_version()
    if not version:
        raise kernel.NotImplementedByKernel("Landlock")
    rules, files, networks = _ruleset(version, ~0 if ports is None else _TCP)
    try:
        for path in readable:
            _allow(rules, path, _READ & files)
        for path in (os.devnull, *writable):
            _allow(rules, path, (_READ | _WRITE_FILE | _TRUNCATE | sum(_CHANGE)) & files)
        for port in ports or () if networks else ():
            rule = _Port(_CONNECT_TCP, port)
            kernel.system_call("landlock_add_rule", rules, _NETWORK_PORT, ctypes.byref(rule), 0)
        kernel.system_call("landlock_restrict_self", rules, 0)
    finally:
        os.close(rules)


def _ruleset(version: int, governed: int) -> tuple[int, int, int]:
    """Return the descriptor of a set of rules without any, and the rights over files and networks that it governs.

    Of networks these are some of `governed`. Where the kernel does not take the rights that we know of its version, it
    has those of an older one.
    """
    files, networks, others = (
        sum(rights for since, rights in table if since <= version) for table in (_FILES, _NETWORKS, _OTHERS)
    )
    networks &= governed
    attributes = _Rights(files, networks, others)
    # Older versions know fewer of them; what they do not know is 0.
    size = 8 if version < 4 else 16 if version < 6 else 24
    try:
        return kernel.system_call("landlock_create_ruleset", ctypes.byref(attributes), size, 0), files, networks
    except OSError as error:
        if error.errno != errno.EINVAL or version == 1:
            raise
    return _ruleset(version - 1, governed)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - objects of pathlib cost a forked process more than the call
            rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        rule = _Beneath(rights, descriptor)
        kernel.system_call("landlock_add_rule", rules, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)
