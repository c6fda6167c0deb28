"""What a contained process must not be able to do, tried by raw system calls as compiled code would.

Each attempt returns what the system call returned; a refusal raises OSError.
"""

import ctypes
import errno
import os
import platform
import resource
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from services.common.containment.contain import Measure

_MACHINE = platform.machine()
# Numbers on x86_64 and aarch64.
_NUMBERS = {
    "accept4": (288, 242),
    "add_key": (248, 217),
    "bind": (49, 200),
    "bpf": (321, 280),
    "capset": (126, 91),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "execveat": (322, 281),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchownat": (260, 54),
    "init_module": (175, 105),
    "inotify_init1": (294, 26),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "listen": (50, 201),
    "memfd_create": (319, 279),
    "mount": (165, 40),
    "mq_open": (240, 180),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "seccomp": (317, 277),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setuid": (105, 146),
    "setxattr": (188, 5),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utimensat": (280, 88),
}
_AT_FDCWD = -100
_NEW_USER_NAMESPACE = 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What there is around a contained process, which it must not reach."""

    host: int
    """A process of the same user that is not contained."""
    sibling: int
    """Another contained process."""
    key: str
    """A file that holds a key."""
    sibling_file: str
    """A file in the directory of the other contained process."""
    unix_path: str
    """Where somebody listens."""
    port: int
    """Where somebody listens on the loopback interface."""


def call(name: str, *arguments: Any) -> int:
    """Make a system call by its number on Linux."""
    numbers = _NUMBERS[name]
    return raw(numbers[_MACHINE == "aarch64"], *arguments)


def raw(number: int, *arguments: Any) -> int:
    """Make a system call; other systems than Linux have other numbers."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "it is a call of Linux")
    ctypes.set_errno(0)
    wide = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    result: int = _libc.syscall(ctypes.c_long(number), *wide)
    if result == -1:
        raise OSError(ctypes.get_errno(), name_of(ctypes.get_errno()))
    return result


def name_of(number: int) -> str:
    """Return the name of an error."""
    return errno.errorcode.get(number, str(number))


def outcomes(around: Surroundings) -> Mapping[str, tuple[Measure, str]]:
    """Make all attempts; return for each which measure is to refuse it, and the error's name or "done"."""
    return {name: (measure, _outcome(attempt)) for name, measure, attempt in _attempts(around)}


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return name_of(error.errno or 0)
    except AttributeError:  # not a function of this system
        return "ENOSYS"
    return "done"


def _attempts(around: Surroundings) -> Iterator[tuple[str, Measure, Callable[[], object]]]:
    for measure, group in (
        (Measure.CALL_FILTER, _sockets(around)),
        (Measure.CALL_FILTER, _programs()),
        (Measure.CALL_FILTER, _other_processes(around)),
        (Measure.CALL_FILTER, _kernel(around)),
        (Measure.CALL_FILTER, _modes(around)),
        (Measure.FILE_RULES, _files(around)),
        (Measure.FILE_RULES, _memory(around.host, "the host")),
        (Measure.PRIVATE_MEMORY, _memory(around.sibling, "a sibling")),
        (Measure.NO_CAPABILITIES, {"raise a limit": _raise_a_limit}),
    ):
        for name, attempt in group.items():
            yield name, measure, attempt


Attempts = Mapping[str, Callable[[], object]]


def _sockets(around: Surroundings) -> Attempts:
    address = b"\x02\x00" + around.port.to_bytes(2, "big") + bytes((127, 0, 0, 1)) + bytes(8)
    unix = b"\x01\x00" + around.unix_path.encode() + b"\0"
    held = _held_socket()

    def pair(kind: int) -> int:
        return call("socketpair", socket.AF_UNIX, kind, 0, (ctypes.c_int * 2)())

    def to_another() -> int:
        one, other = socket.socketpair()
        with one, other:
            return call("connect", one.fileno(), unix, len(unix))

    return {
        "tcp": lambda: call("socket", socket.AF_INET, socket.SOCK_STREAM, 0),
        "tcp over ipv6": lambda: call("socket", socket.AF_INET6, socket.SOCK_STREAM, 0),
        "udp": lambda: call("socket", socket.AF_INET, socket.SOCK_DGRAM, 0),
        "raw": lambda: call("socket", socket.AF_INET, socket.SOCK_RAW, 255),
        "unix": lambda: call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0),
        "netlink": lambda: call("socket", 16, socket.SOCK_RAW, 0),
        "packet": lambda: call("socket", 17, socket.SOCK_RAW, 0),
        "vsock": lambda: call("socket", 40, socket.SOCK_STREAM, 0),
        "pair of datagrams": lambda: pair(socket.SOCK_DGRAM),
        "pair of packets": lambda: pair(socket.SOCK_SEQPACKET),
        "connect what it holds": lambda: call("connect", held, address, len(address)),
        "connect a pair": to_another,
        "bind": lambda: call("bind", held, unix, len(unix)),
        "listen": lambda: call("listen", held, 1),
        "accept": lambda: call("accept4", held, None, None, 0),
        "resolve and connect": lambda: socket.create_connection(("127.0.0.1", around.port), 1),
    }


def _held_socket() -> int:
    """Return the descriptor of a socket that the process had from its start, or else of one it may make."""
    return next(iter(sockets()), None) or socket.socketpair()[0].detach()


def sockets() -> list[int]:
    """Return which of the descriptors of this process are sockets."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [each for each in range(min(most, 4096)) if _is_open(each) and stat.S_ISSOCK(os.fstat(each).st_mode)]


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _programs() -> Attempts:
    return {
        "execve": lambda: os.execve("/bin/true", ["true"], {}),
        "execveat": lambda: call("execveat", _AT_FDCWD, b"/bin/true", None, None, 0),
        "fork": lambda: _forked(os.fork()),
        "posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "clone": lambda: _forked(call("clone", 17, 0, 0, 0, 0)),
        "clone a user namespace": lambda: _forked(call("clone", 17 | _NEW_USER_NAMESPACE, 0, 0, 0, 0)),
        "clone3": lambda: call("clone3", ctypes.create_string_buffer(64), 64),
        "memory file": lambda: call("memfd_create", b"program", 0),
    }


def _forked(pid: int) -> None:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _other_processes(around: Surroundings) -> Attempts:
    word = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(word), 8)

    def own_signal_by_file() -> int:
        with open(os.devnull, "rb") as file:  # noqa: PTH123
            return raw(72 if _MACHINE != "aarch64" else 25, file.fileno(), 8, around.host)

    def each(pid: int, which: str) -> Attempts:
        return {
            f"signal {which}": lambda: os.kill(pid, 0),
            f"signal a thread of {which}": lambda: call("tgkill", pid, pid, 0),
            f"signal {which} by its thread": lambda: call("tkill", pid, 0),
            f"queue a signal for {which}": lambda: call("rt_sigqueueinfo", pid, 0, bytes(128)),
            f"pidfd of {which}": lambda: call("pidfd_open", pid, 0),
            f"attach to {which}": lambda: call("ptrace", 16, pid, 0, 0),
            f"seize {which}": lambda: call("ptrace", 0x4206, pid, 0, 0),
            f"read memory of {which}": lambda: call("process_vm_readv", pid, vector, 1, vector, 1, 0),
            f"write memory of {which}": lambda: call("process_vm_writev", pid, vector, 1, vector, 1, 0),
            f"limits of {which}": lambda: call("prlimit64", pid, 7, None, bytes(16)),
            f"priority of {which}": lambda: call("setpriority", 0, pid, 19),
            f"processors of {which}": lambda: os.sched_setaffinity(pid, os.sched_getaffinity(0)),
            f"compare with {which}": lambda: call("kcmp", os.getpid(), pid, 0, 0, 0),
        }

    return {
        **each(around.host, "the host"),
        **each(around.sibling, "a sibling"),
        "signal everybody": lambda: os.kill(-1, 0),
        "signal the group": lambda: os.kill(0, 0),
        "signal by a file": own_signal_by_file,
        "pidfd_send_signal": lambda: call("pidfd_send_signal", 0, 0, None, 0),
        "pidfd_getfd": lambda: call("pidfd_getfd", 0, 0, 0),
        "process_madvise": lambda: call("process_madvise", 0, vector, 1, 0, 0),
        "shared memory": lambda: call("shmget", 0, 4096, 0o1600),
        "message queue": lambda: call("mq_open", b"coxswain", 0o102, 0o600, None),
    }


def _kernel(around: Surroundings) -> Attempts:
    path = around.key.encode()
    return {
        "mount": lambda: call("mount", b"none", b".", b"tmpfs", 0, None),
        "unmount": lambda: call("umount2", b".", 0),
        "pivot_root": lambda: call("pivot_root", b"/", b"/"),
        "chroot": lambda: os.chroot("/"),
        "unshare": lambda: call("unshare", _NEW_USER_NAMESPACE),
        "setns": lambda: call("setns", 0, 0),
        "open by handle": lambda: call("open_by_handle_at", _AT_FDCWD, bytes(64), 0),
        "name to handle": lambda: call("name_to_handle_at", _AT_FDCWD, path, bytes(64), bytes(8), 0),
        "bpf": lambda: call("bpf", 0, bytes(64), 64),
        "keyctl": lambda: call("keyctl", 0, -3, 1, 0, 0),
        "add_key": lambda: call("add_key", b"user", b"coxswain", b"x", 1, -3),
        "request_key": lambda: call("request_key", b"user", b"coxswain", None, 0),
        "io_uring": lambda: call("io_uring_setup", 1, ctypes.create_string_buffer(128)),
        "userfaultfd": lambda: call("userfaultfd", 0),
        "perf": lambda: call("perf_event_open", bytes(128), 0, -1, -1, 0),
        "module": lambda: call("init_module", b"", 0, b""),
        "inotify": lambda: call("inotify_init1", 0),
        "another filter": lambda: call("seccomp", 1, 0, None),
        "be traced": lambda: call("prctl", 0x59616D61, -1, 0, 0, 0),
        "show its memory": lambda: call("prctl", 4, 1, 0, 0, 0),
        "capabilities": lambda: call("capset", bytes(8), bytes(24)),
        "another user": lambda: call("setuid", os.getuid()),
        "personality": lambda: call("personality", 0x40000),
        "number of x32": lambda: raw(0x40000000 | 39),
        "number that nobody has": lambda: raw(1_000_000),
        "type into a terminal": lambda: raw(29 if _MACHINE == "aarch64" else 16, 0, 0x5412, b"x"),
    }


def _modes(around: Surroundings) -> Attempts:
    """Landlock knows nothing of these."""
    path = around.key.encode()
    return {
        "change the mode of a key": lambda: call("fchmodat", _AT_FDCWD, path, 0o666),
        "change it with flags": lambda: call("fchmodat2", _AT_FDCWD, path, 0o666, 0),
        "change the owner of a key": lambda: call("fchownat", _AT_FDCWD, path, os.getuid(), -1, 0),
        "change the time of a key": lambda: call("utimensat", _AT_FDCWD, path, None, 0),
        "set an attribute of a key": lambda: call("setxattr", path, b"user.x", b"x", 1, 0),
        "cut a key off": lambda: call("truncate", path, 0),
        # Of a device nothing is lost.
        "empty what it may read": lambda: os.open("/dev/zero", os.O_RDONLY | os.O_TRUNC),
        "open with flags that cannot be seen": lambda: call("openat2", _AT_FDCWD, b"/dev/zero", bytes(24), 24),
    }


def _files(around: Surroundings) -> Attempts:
    directory = os.path.dirname(around.key)  # noqa: PTH120
    return {
        "read a key": lambda: os.open(around.key, os.O_RDONLY),
        "write a key": lambda: os.open(around.key, os.O_WRONLY),
        "list the keys": lambda: os.listdir(directory),  # noqa: PTH208
        "remove a key": lambda: os.unlink(around.key),  # noqa: PTH108
        "rename a key": lambda: os.rename(around.key, around.key + ".old"),  # noqa: PTH104
        "take a key": lambda: os.rename(around.key, "key"),  # noqa: PTH104
        "link a key": lambda: os.link(around.key, "key"),
        "make a file beside it": lambda: os.open(f"{directory}/new", os.O_CREAT | os.O_WRONLY),
        "read by a link": lambda: _by_link(around.key),
        "read of a sibling": lambda: os.open(around.sibling_file, os.O_RDONLY),
        "read of the machine": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "write to the temporary directory": lambda: os.open("/tmp/coxswain-escape", os.O_CREAT | os.O_WRONLY),
        "write to Python": lambda: os.open(os.__file__, os.O_WRONLY),
        "write to shared memory": lambda: os.open("/dev/shm/coxswain-escape", os.O_CREAT | os.O_WRONLY),
        "terminal": lambda: os.open("/dev/ptmx", os.O_RDWR),
        "command line of the host": lambda: os.open(f"/proc/{around.host}/cmdline", os.O_RDONLY),
        "files of the host": lambda: os.listdir(f"/proc/{around.host}/fd"),  # noqa: PTH208
        "kernel's settings": lambda: os.open("/proc/sys/kernel/hostname", os.O_RDONLY),
    }


def _by_link(path: str) -> int:
    Path("link").symlink_to(path)
    return os.open("link", os.O_RDONLY)


def _memory(pid: int, which: str) -> Attempts:
    return {
        f"{name} of {which}": partial(os.open, f"/proc/{pid}/{name}", os.O_RDONLY)
        for name in ("mem", "environ", "maps")
    }


def _raise_a_limit() -> int:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return call("prlimit64", 0, resource.RLIMIT_NOFILE, struct.pack("QQ", most, most + 1), None)
