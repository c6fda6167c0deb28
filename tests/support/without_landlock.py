"""`python -m tests.support.without_landlock MODULE ...` runs a module as on a kernel that knows no Landlock."""

import ctypes
import errno
import runpy
import struct
import sys

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_LANDLOCK_CREATE_RULESET = 444
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NOT_KNOWN, _ALLOW = 0x00050000 | errno.ENOSYS, 0x7FFF0000


def refuse_landlock() -> None:
    """Have the kernel say that it knows no Landlock, to this process and all that it starts."""
    if sys.platform != "linux":
        return  # it knows none
    instructions = (
        (_LOAD, 0, 0, 0),
        (_EQUAL, 0, 1, _LANDLOCK_CREATE_RULESET),
        (_RETURN, 0, 0, _NOT_KNOWN),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *each) for each in instructions))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, program, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse_landlock()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
