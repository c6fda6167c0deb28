"""What sessions at PostgreSQL are given, with a pooler in between or without."""

from typing import Any

from sqlalchemy import Engine, event

# A process that is stopped in a transaction would hold its locks for ever. The server ends the transaction instead.
POSTGRES_SESSION = {"idle_in_transaction_session_timeout": "20s"}
# Connections that have not been used for this long are given back. The ping before their next use finds that out.
IDLE_SESSION = {"idle_session_timeout": "5min"}
# A pooler gives each transaction any session it has: nothing may be prepared for later ones.
NOTHING_PREPARED = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}


def limit_transactions(engine: Engine) -> None:
    """Let each transaction set for itself what poolers take from no session."""

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        for name, value in POSTGRES_SESSION.items():
            connection.exec_driver_sql(f"SET LOCAL {name} = '{value}'")
