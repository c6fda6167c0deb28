"""The files that a Python process may still want to read once it has started."""

import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_PACKAGES = frozenset({"site-packages", "dist-packages"})
_SYSTEM = (
    *("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/etc/mime.types"),
    *("/dev/zero", "/dev/urandom"),
)


def python_files() -> Sequence[str]:
    """Return the paths of Python and its packages, of shared libraries, and of what the system says of time and types.

    Of other directories that modules are searched in, such as a checkout with keys beside its code, it has only the
    packages that have been imported from them.
    """
    found: list[str] = []
    for path in map(os.path.realpath, filter(None, _wanted())):
        if os.path.exists(path) and not any(_is_below(path, other) for other in found):  # noqa: PTH110
            found.append(path)
    return found


def _wanted() -> Iterator[str]:
    paths = sysconfig.get_paths()
    yield from _LIBRARIES
    yield from (paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    yield sysconfig.get_config_var("LIBDIR") or ""
    yield from os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    yield from _SYSTEM
    yield from (path for path in sys.path if os.path.basename(path) in _PACKAGES)  # noqa: PTH119
    for name, module in list(sys.modules.items()):
        if "." not in name and name != "__main__":
            file = getattr(module, "__file__", None)
            yield from getattr(module, "__path__", (file,) if file else ())


def _is_below(path: str, other: str) -> bool:
    return path == other or path.startswith(other.rstrip("/") + "/")
