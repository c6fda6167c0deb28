"""SQLite files with the tables of a service, each made once by its migrations and copied from then on."""

import asyncio
import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from threading import Thread

from sqlalchemy.engine import make_url

from services.common.db.migrate import upgrade_database


def make_service_tables(service: str, url: str) -> None:
    """Make the file of an SQLite URL with a service's tables, unless it is there.

    Databases on PostgreSQL have them: see the fixtures.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_template(service), parsed.database)


@cache
def _template(service: str) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="coxswain-migrated-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    file = directory / f"{service}.db"
    # In a thread, as the caller's event loop may be running.
    thread = Thread(target=lambda: asyncio.run(upgrade_database(service, f"sqlite:///{file}")))
    thread.start()
    thread.join()
    return file
