"""What the helper process may use and reach: where upstreams are, and nothing of this machine."""

import os
import resource
import tempfile
from collections.abc import Collection

from services.common.containment.contain import Profile, contain
from services.common.containment.network_files import network_files
from services.common.containment.python_files import python_files
from services.common.resource_limits import limit_resource

_DATA_BYTES = 4 * 1024**3
_NAME_SERVICE_PORT = 53


def limit_process(ports: Collection[int]) -> None:
    """Keep this process, before litellm is imported, to calls of upstreams at ports of TCP, as far as the kernel can.

    It writes no file, reads Python's and those by which addresses are found, and starts no program.
    """
    for kind, most in ((resource.RLIMIT_DATA, _DATA_BYTES), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        limit_resource(kind, most)
    # litellm asks for a directory of temporary files when it is imported, and Python looks for one by writing.
    tempfile.tempdir = os.getcwd()  # noqa: PTH109
    contain(Profile([*python_files(), *network_files()], ports={_NAME_SERVICE_PORT, *ports}))
