"""CrewAI's own client of A2A as a program, run by its path in an environment of its own.

It delegates to an agent over gRPC with a bearer token, answers what the agent asks in the next turn, and prints what
came of each turn as JSON.
"""

import argparse
import asyncio
import json
from typing import Any

from crewai.a2a.auth.client_schemes import BearerTokenAuth
from crewai.a2a.config import ClientTransportConfig
from crewai.a2a.updates import PollingConfig
from crewai.a2a.utils.delegation import aexecute_a2a_delegation


async def main(card: str, token: str, *, polls: bool) -> None:
    told: list[list[str]] = []
    turns: dict[str, Any] = {}
    for text in ("A coxswain steers.", "ships", "approve"):
        result = await aexecute_a2a_delegation(
            endpoint=card,
            auth=BearerTokenAuth(token=token),
            timeout=60,
            task_description=text,
            agent_id="crewai",
            transport=ClientTransportConfig(preferred="GRPC", supported=["GRPC"]),
            updates=PollingConfig(interval=0.2) if polls else None,
            **turns,
        )
        told.append([result["status"].value, str(result.get("result") or result.get("error") or "")])
        history = result["history"]
        known = next((one for one in reversed(history) if one.task_id), None)
        turns = {"conversation_history": history, "task_id": known.task_id if known else None}
    print(json.dumps({"name": result["a2a_agent_name"], "told": told}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--card", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--polls", action="store_true")
    given = parser.parse_args()
    asyncio.run(main(given.card, given.token, polls=given.polls))
