"""Serves the tool gateway alone: `python -m services.orchestrator.tool_gateway`."""

from services.common.first_signals import end_on_signals

if __name__ == "__main__":
    end_on_signals()

import argparse

from services.common.runner import serve
from services.orchestrator.tool_gateway.service import build
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m services.orchestrator.tool_gateway", description="Serves the tool gateway."
    )
    parser.add_argument(
        "--internal-address", default="", help="where it serves the services, instead of COXSWAIN_TOOLS_INTERNAL_PORT"
    )
    serve("tools", build, ToolGatewaySettings, internal_address=parser.parse_args().internal_address)


if __name__ == "__main__":
    main()
