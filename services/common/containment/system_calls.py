"""The system calls that a contained process may make, with their numbers on x86_64 and aarch64.

What is not listed is refused, calls that later kernels add included. Left out although programs use them: calls that
change modes, owners, times or attributes of files, which Landlock does not cover, and all that starts programs, opens
sockets (but for processes that connect to networks), or reaches another process.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MACHINES = ("x86_64", "aarch64")

_FILES = """
creat 85 -, close 3 57, close_range 436 436, read 0 63, write 1 64, pread64 17 67, pwrite64 18 68, readv 19 65,
writev 20 66, preadv 295 69, pwritev 296 70, preadv2 327 286, pwritev2 328 287, lseek 8 62, stat 4 -,
fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439,
readlink 89 -, readlinkat 267 78, getdents 78 -, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50,
mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38,
renameat2 316 276, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, ftruncate 77 46, fallocate 285 47,
fsync 74 82, fdatasync 75 83, sync_file_range 277 84, fadvise64 221 223, readahead 187 213,
copy_file_range 326 285, sendfile 40 71, flock 73 32, statfs 137 43, fstatfs 138 44, umask 95 166, dup 32 23,
dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59
"""
_MEMORY = """
mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, madvise 28 233, msync 26 227, brk 12 214,
mincore 27 232, membarrier 324 283, pkey_alloc 330 289, pkey_free 331 290, pkey_mprotect 329 288, mseal 462 462,
map_shadow_stack 453 453
"""
_THREADS_AND_TIME = """
futex 202 98, futex_waitv 449 449, set_robust_list 273 99, set_tid_address 218 96, rseq 334 293, gettid 186 178,
getpid 39 172, getppid 110 173, sched_yield 24 124, sched_getaffinity 204 123, sched_getscheduler 145 120,
sched_getparam 143 121, sched_get_priority_max 146 125, sched_get_priority_min 147 126, getpriority 140 141,
getcpu 309 168, exit 60 93, exit_group 231 94, wait4 61 260, waitid 247 95, restart_syscall 219 128,
arch_prctl 158 -, nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114,
gettimeofday 96 169, time 201 -, times 100 153, getrusage 98 165, getitimer 36 102, setitimer 38 103,
alarm 37 -, pause 34 -, timer_create 222 107, timer_settime 223 110, timer_gettime 224 108,
timer_getoverrun 225 109, timer_delete 226 111, timerfd_create 283 85, timerfd_settime 286 86,
timerfd_gettime 287 87
"""
_OWN_SIGNALS = """
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137,
rt_sigsuspend 130 133, sigaltstack 131 132, signalfd 282 -, signalfd4 289 74
"""
_WAITING_AND_HELD_SOCKETS = """
poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19,
recvfrom 45 207, recvmsg 47 212, recvmmsg 299 243, sendmsg 46 211, sendmmsg 307 269, shutdown 48 210,
getsockopt 55 209, setsockopt 54 208, getsockname 51 204, getpeername 52 205
"""
_WHAT_IT_IS = """
getrandom 318 278, uname 63 160, sysinfo 99 179, getuid 102 174, geteuid 107 175, getgid 104 176,
getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158, getpgid 121 155, getpgrp 111 -,
getsid 124 156, capget 125 90, getrlimit 97 163, setrlimit 160 164
"""
# Refused unless their arguments are as `_conditions` says.
_CONDITIONAL = """
open 2 -, openat 257 56, clone 56 220, fcntl 72 25, ioctl 16 29, kill 62 129, tgkill 234 131, prctl 157 167,
prlimit64 302 261, sched_setaffinity 203 122, sendto 44 206, setpriority 141 140, socketpair 53 199
"""
# Of processes that connect to networks, besides.
_CONNECTING = "connect 42 203"
_CONNECTING_CONDITIONAL = "socket 41 198"
_CLONE3, _OPENAT2 = 435, 437

_EMPTY = os.O_TRUNC
_OPEN = (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | _EMPTY, os.O_RDWR | _EMPTY, os.O_RDONLY)
"""Not to read and to empty at once: before its version 3 Landlock lets that be done to files that may only be read."""

_CLONE_VM, _CLONE_THREAD = 0x100, 0x10000
_NEW_NAMESPACES = 0x80 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
_FCNTL = (
    *range(8),  # descriptors, flags and locks
    *(36, 37, 38),  # locks of an open file
    *(1030, 1031, 1032, 1033, 1034),  # duplicates that are closed by exec, sizes of pipes, seals
)
_IOCTL = (
    0x5401,
    0x802C542A,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # is it a terminal, how wide; bytes to read; flags
_PRCTL = (3, 15, 16, 21, 39, 0x53564D41)  # what holds, and names of threads and memory
_KIND_OF_SOCKET = 0xF


@dataclass(frozen=True, slots=True)
class Argument:
    """A condition: the lower 32 bits of an argument, those of `mask` alone, are one of `values`."""

    index: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    upper_half: bool = False
    """Whether it is about the upper 32 bits instead."""


@dataclass(frozen=True, slots=True)
class AllowedCalls:
    """What a process may call, by numbers; a call with conditions needs all of them to hold."""

    always: frozenset[int]
    conditional: Mapping[int, tuple[Argument, ...]]
    unknown: tuple[int, ...] = (_CLONE3, _OPENAT2)
    """Refused as if the kernel did not know them: the library then makes an older call whose arguments can be seen."""


def allowed_calls(machine: str, *, connects: bool = False) -> AllowedCalls:
    """Return what a process on a machine of MACHINES may call. Signals reach only the process that asks for this.

    `connects` adds sockets of networks that call others; none is listened at.
    """
    always_tables = [_FILES, _MEMORY, _THREADS_AND_TIME, _OWN_SIGNALS, _WAITING_AND_HELD_SOCKETS, _WHAT_IT_IS]
    conditional_tables = [_CONDITIONAL]
    if connects:
        always_tables.append(_CONNECTING)
        conditional_tables.append(_CONNECTING_CONDITIONAL)
    conditions = _conditions(os.getpid())
    return AllowedCalls(
        frozenset(number for table in always_tables for _, number in _numbers(table, machine)),
        {number: conditions[name] for table in conditional_tables for name, number in _numbers(table, machine)},
    )


def _numbers(table: str, machine: str) -> Iterator[tuple[str, int]]:
    column = 1 + MACHINES.index(machine)
    for entry in table.split(","):
        words = entry.split()
        if words[column] != "-":
            yield words[0], int(words[column])


def _conditions(own_id: int) -> Mapping[str, tuple[Argument, ...]]:
    threads = _CLONE_VM | _CLONE_THREAD
    opening = os.O_ACCMODE | _EMPTY
    return {
        "open": (Argument(1, _OPEN, opening),),
        "openat": (Argument(2, _OPEN, opening),),
        "clone": (Argument(0, (threads,), threads | _NEW_NAMESPACES),),
        "fcntl": (Argument(1, _FCNTL),),
        "ioctl": (Argument(1, _IOCTL),),
        "kill": (Argument(0, (own_id,)),),
        "tgkill": (Argument(0, (own_id,)),),
        "prctl": (Argument(0, _PRCTL),),
        "prlimit64": (Argument(0, (0, own_id)),),
        "sched_setaffinity": (Argument(0, (0, own_id)),),
        # Without an address: only where the socket is connected to already.
        "sendto": (Argument(4, (0,)), Argument(4, (0,), upper_half=True)),
        # Its own niceness, or that of one of its threads by that thread.
        "setpriority": (Argument(0, (os.PRIO_PROCESS,)), Argument(1, (0,))),
        # Not those of this machine's other processes (Unix, netlink, vsock), nor raw ones.
        "socket": (
            Argument(0, (socket.AF_INET, socket.AF_INET6)),
            Argument(1, (socket.SOCK_STREAM, socket.SOCK_DGRAM), _KIND_OF_SOCKET),
        ),
        # Event loops wake themselves by such a pair. It cannot be connected to anything else.
        "socketpair": (Argument(0, (socket.AF_UNIX,)), Argument(1, (socket.SOCK_STREAM,), _KIND_OF_SOCKET)),
    }
