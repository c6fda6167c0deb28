import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from services.common.ids import lowest_id, new_id


def test_ids_are_uuid_version_7_of_the_rfc_variant() -> None:
    for parsed in (uuid.UUID(new_id()) for _ in range(100)):
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122


def test_ids_of_one_thread_rise_strictly_as_text() -> None:
    ids = [new_id() for _ in range(20_000)]
    assert ids == sorted(set(ids))


def test_the_lowest_id_of_a_moment_parts_those_made_before_from_those_made_after() -> None:
    before = new_id()
    made = datetime.fromtimestamp((uuid.UUID(before).int >> 80) / 1000, UTC)
    assert lowest_id(made - timedelta(milliseconds=1)) < before < lowest_id(made + timedelta(milliseconds=2))


@pytest.mark.parametrize("year", [1, 9999])
def test_every_moment_has_a_lowest_id(year: int) -> None:
    assert uuid.UUID(lowest_id(datetime(year, 12, 31, tzinfo=UTC))).version == 7


def test_ids_of_many_threads_never_collide() -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = [i for batch in threads.map(lambda _: [new_id() for _ in range(2_000)], range(8)) for i in batch]
    assert len(set(ids)) == len(ids)


_FORK = """
import os
from services.common.ids import new_id

new_id()
child = os.fork()
ids = [new_id()[-12:] for _ in range(100)]
if child:
    os.waitpid(child, 0)
print(*ids, sep="\\n", flush=True)
"""


def test_a_forked_process_uses_none_of_the_random_bits_of_its_parent() -> None:
    # In a process without the threads that other tests have left: one that forks beside them may wait for ever.
    forked = subprocess.run([sys.executable, "-c", _FORK], capture_output=True, text=True, check=True, timeout=60)
    parts = forked.stdout.split()
    assert len(parts) == len(set(parts)) == 200
