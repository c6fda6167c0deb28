"""Generates the blocking client out of the one for asyncio: the methods of both are written once.

Usage: python tools/generate_blocking_client.py [--check]
"""

import argparse
import sys
from pathlib import Path

from unasyncd.transformers import TreeTransformer

SOURCE = Path("clients/python/coxswain/client/aio.py")
TARGET = SOURCE.with_name("blocking.py")
REPLACEMENTS = {
    "AsyncClient": "Client",
    "contextlib.aclosing": "contextlib.closing",
    "coxswain.client.aio_channel.open_aio_channels": "coxswain.client.blocking_channel.open_blocking_channels",
    "coxswain.client.aio_channel.aio_trailing_metadata": "coxswain.client.blocking_channel.blocking_trailing_metadata",
}


def generated(root: Path) -> str:
    """What the blocking client has to be, formatted."""
    transform = TreeTransformer(
        extra_name_replacements=REPLACEMENTS,
        infer_type_checking_imports=False,
        ruff_fix=True,
        ruff_format=True,
        file_name=str(root / TARGET),
    )
    note = f"# Generated from {SOURCE.name} by `make blocking-client`: edit that file instead.\n"
    return f"{note}{transform((root / SOURCE).read_text(encoding='utf-8'))}"


def main() -> int:
    """Write the blocking client or, with --check, only compare it; return the exit code."""
    parser = argparse.ArgumentParser(description="Generate the blocking client from the asyncio client.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is out of date")
    check = parser.parse_args().check
    root = Path(__file__).resolve().parents[1]
    text, target = generated(root), root / TARGET
    if not check:
        target.write_text(text, encoding="utf-8")
    elif target.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"error: {TARGET} is not what {SOURCE.name} makes: run `make blocking-client`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
