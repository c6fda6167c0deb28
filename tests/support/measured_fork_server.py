"""The fork server, where coverage can be measured in crew processes: they may write where it keeps its files."""

import os
from collections.abc import Collection

from services.common.containment.contain import Measure, Profile, contain
from services.orchestrator.worker.crew import containment, fork_server


def let_coverage_write() -> None:
    """Let crew processes write beside COVERAGE_FILE, if there is one."""
    if file := os.environ.get("COVERAGE_FILE"):
        measurements = os.path.dirname(file)  # noqa: PTH120

        def contain_measured(
            profile: Profile, wanted: Collection[Measure], *, required: Collection[Measure]
        ) -> frozenset[Measure]:
            return contain(Profile(profile.readable, (*profile.writable, measurements)), wanted, required=required)

        vars(containment)["contain"] = contain_measured


if __name__ == "__main__":
    let_coverage_write()
    fork_server.main()
