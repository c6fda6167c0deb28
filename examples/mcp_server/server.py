"""An MCP server with two tools: one that only looks, and one that pays."""

import argparse

from mcp.server.fastmcp import FastMCP
from mcp.types import ToolAnnotations

INVOICES = {"4711": 120.0, "4712": 80.5}
paid: list[str] = []


def build(port: int) -> FastMCP:
    """Return the server, on loopback."""
    server = FastMCP("billing", host="127.0.0.1", port=port)

    @server.tool(annotations=ToolAnnotations(readOnlyHint=True, idempotentHint=True))
    def get_invoice(number: str) -> dict[str, object]:
        """Return what an invoice is for and whether it was paid."""
        if number not in INVOICES:
            raise ValueError(f"there is no invoice {number}; there is {', '.join(INVOICES)}")
        return {"number": number, "amount": INVOICES[number], "paid": number in paid}

    @server.tool()
    def pay(number: str, amount: float) -> str:
        """Pay an invoice."""
        paid.append(number)
        return f"paid {amount} for {number}, receipt {len(paid)}"

    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8700)
    build(parser.parse_args().port).run("streamable-http")
