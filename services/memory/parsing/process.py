"""The helper process that reads documents into parts.

They may be made to take years or all memory. Each reading has its share of processor time, after which the system ends
the process, and with it the reading. It is run by its path and in isolation; see `helper_program.serve_readings`.
"""

import sys
from pathlib import Path
from typing import Any


def read(what: str, given: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - it reads one thing only
    """Return what is found in a document; see `read_document`.

    Raises:
        ValueError: it cannot be read; the text says why.
    """
    from services.memory.parsing.documents import read_document

    return read_document(**given)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from services.common.helper_program import serve_readings

    serve_readings(read)
