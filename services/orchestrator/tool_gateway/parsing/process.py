"""The helper process that reads documents and statements from outside.

They may be made to take years or all memory. Each reading has its share of processor time, after which the system ends
the process, and with it the reading. It is run by its path and in isolation; see `helper_program.serve_readings`.
"""

import sys
from pathlib import Path
from typing import Any


def read(what: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return what the reader named `what` makes of what it is given.

    Raises:
        ValueError: it cannot be read; the text says why.
    """
    if what == "openapi":
        from services.orchestrator.tool_gateway.adapters.openapi.compiler import compile_document

        return compile_document(given["text"], given["operations"], given["idempotency_header"])
    if what == "sql":
        from services.orchestrator.tool_gateway.parsing.sql import read_statement

        return read_statement(given["statement"])
    from services.orchestrator.tool_gateway.parsing import pages

    if what == "page":
        return pages.read_page(given["content"], given["charset"], given["url"])
    if what == "pdf":
        return pages.read_pdf(given["content"])
    return pages.allows_robots(given["robots"], given["url"], given["agent"])


if __name__ == "__main__":
    # The parser of SQL spends some twenty frames on each pair of parentheses.
    sys.setrecursionlimit(10_000)
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
    from services.common.helper_program import serve_readings

    serve_readings(read)
