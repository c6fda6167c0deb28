"""A Databricks workspace on one loopback port, with one set of credentials.

It has identity, Vector Search, model serving, SQL, Genie and jobs.

    with DatabricksWorkspace() as workspace:
        pat = workspace.identity.add_pat(workspace.identity.add_user("ann@example.com"))
        workspace.vector_search.add_endpoint("vectors")
        workspace.llm.on(Reply(text="hello"))

Control routes lie under `/_identity`, `/_vector_search`, `/_llm`, `/_sql`, `/_genie` and `/_jobs` (`/_llm/_log`,
`/_vector_search/_ctl` and so on).
`python -m tests.support.databricks_workspace` serves one with user `dev@example.com` and the token it prints.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from contextlib import suppress

from aiohttp import web

from tests.support.databricks_genie import GenieEmulator
from tests.support.databricks_http import DatabricksError
from tests.support.databricks_identity import Algorithm, DatabricksIdentity
from tests.support.databricks_jobs import JobEmulator
from tests.support.databricks_statements import StatementEmulator
from tests.support.http_emulator import HttpEmulator, serve_until_cancelled
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_wires.base import Refused
from tests.support.vector_search_emulator import SERVING_SCOPES, Behaviour, VectorSearchEmulator


class DatabricksWorkspace(HttpEmulator):
    """Six emulators on one address; every call is checked by `identity`."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        algorithm: Algorithm = "RS256",
        lifetime_s: int = 3600,
        behaviour: Behaviour | None = None,
        record: bool = True,
    ) -> None:
        super().__init__(host=host, port=port)
        self.identity = DatabricksIdentity(
            algorithm=algorithm, lifetime_s=lifetime_s, record=record, control_prefix="/_identity"
        )
        self.vector_search = VectorSearchEmulator(
            authenticate=self.identity.authenticate,
            behaviour=behaviour,
            record=record,
            control_prefix="/_vector_search",
        )
        self.sql = StatementEmulator(authenticate=self.identity.authenticate, record=record)
        self.genie = GenieEmulator(authenticate=self.identity.authenticate, record=record)
        self.jobs = JobEmulator(authenticate=self.identity.authenticate, record=record)
        self.llm = LlmEmulator(authorise=self._authorise_serving, record=record, control_prefix="/_llm")

    @property
    def _parts(self) -> tuple[HttpEmulator, ...]:
        return (self.identity, self.vector_search, self.sql, self.genie, self.jobs, self.llm)

    def install(self, app: web.Application) -> None:
        for part in self._parts:
            part.install(app)

    def served_at(self, url: str | None) -> None:
        super().served_at(url)
        for part in self._parts:
            part.served_at(url)

    def let_go(self) -> None:
        for part in self._parts:
            part.let_go()

    def _authorise_serving(self, headers: Mapping[str, str]) -> None:
        try:
            caller = self.identity.authenticate(headers)
        except DatabricksError as error:
            raise Refused(error.status, str(error.error_code), error.message) from None
        if not caller.may(*SERVING_SCOPES):
            raise Refused(403, "PERMISSION_DENIED", "Invalid scope: the token has no scope for model serving")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve an emulated Databricks workspace on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port (printed)")
    arguments = parser.parse_args()
    workspace = DatabricksWorkspace(port=arguments.port)
    print("token", workspace.identity.add_pat(workspace.identity.add_user("dev@example.com")))
    with suppress(KeyboardInterrupt):
        asyncio.run(serve_until_cancelled(workspace))


if __name__ == "__main__":
    main()
