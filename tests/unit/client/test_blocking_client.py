"""The blocking client is what the one for asyncio makes of itself."""

from pathlib import Path

from tools.generate_blocking_client import TARGET, generated

ROOT = Path(__file__).parents[3]


def test_the_blocking_client_is_up_to_date() -> None:
    assert (ROOT / TARGET).read_text(encoding="utf-8") == generated(ROOT), "run `make blocking-client`"
