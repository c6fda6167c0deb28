"""The check of `doctor` whether services and client are of releases that work together."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from coxswain.client.cli.findings import OK, WARN, Finding
from coxswain.client.later import errors
from coxswain.client.version import VERSION

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

_FINISH = "finish the rollout: a release works beside the one before it, and beside no older one"


def check_releases(client: Client, services: list[str]) -> Iterator[Finding]:
    """Yield one finding. `services` are full names; of each package one process is asked.

    Raises:
        CoxswainError: a server cannot be reached.
    """
    told: dict[str, str] = {}
    for package, service in {service.split(".")[1]: service for service in services}.items():
        try:
            told[package] = client.release(service) or "unknown"
        except errors.NotFound:
            continue
    releases = set(told.values())
    said = ", ".join(sorted(told)) if len(releases) == 1 else ""
    said = said or ", ".join(f"{package} {release}" for package, release in sorted(told.items()))
    if releases == {VERSION}:
        yield Finding("releases", OK, f"this client and the processes of {said} that answered are of release {VERSION}")
    elif len(releases) > 1:
        text = f"processes are of different releases: {said}; this client's is {VERSION}"
        yield Finding("releases", WARN, text, _FINISH)
    elif releases:
        [release] = releases
        text = f"the release of {said} is {release}, this client's is {VERSION}"
        if _number(release) > _number(VERSION):
            yield Finding("releases", OK, f"{text}: what is new since then it does not know")
        else:
            remedy = "install the client of their release, or upgrade them: what they do not have is UNIMPLEMENTED"
            yield Finding("releases", WARN, text, remedy)


def compare_with_orchestrator(check: str, text: str, releases: Collection[str], own: str) -> Finding:
    """Return the finding about processes that work, and whether they are of the orchestrator's release.

    That is `own`, "" where it is not known. `releases` are what it tells of theirs: "" for those that do not say,
    nothing when it is older than this field.
    """
    if not releases:
        return Finding(check, OK, f"{text}; the orchestrator does not tell their release")
    if set(releases) == {own}:
        return Finding(check, OK, f"{text}, of release {own} as the orchestrator")
    told = ", ".join(release or "unknown" for release in sorted(releases, key=_number))
    if not own:
        status, remedy = (OK, "") if len(set(releases)) == 1 else (WARN, _FINISH)
        return Finding(check, status, f"{text}, of release {told}; that of the orchestrator is not known here", remedy)
    return Finding(check, WARN, f"{text}, of release {told}; the orchestrator is of {own}", _FINISH)


def _number(release: str) -> tuple[int, ...]:
    """Return the numbers that a release begins with, to be compared; one that begins with none is the oldest."""
    found = re.match(r"\d+(\.\d+)*", release)
    return tuple(map(int, found[0].split("."))) if found else ()
