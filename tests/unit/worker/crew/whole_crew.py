"""Runs whole crews with CrewAI alone and prints the conversations it has: what one-task crews are compared with.

Reads one crew document from each line of standard input, and prints one line for each: a list of conversations, as a
crew process would send them. Models answer by `replies.scripted`.
"""

import json
import sys
from typing import Any

from crewai import Agent, Crew, Process, Task
from crewai.llms.base_llm import BaseLLM

from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.crew import Process as SpecProcess
from services.orchestrator.domain.document import from_document
from tests.unit.worker.crew.replies import conversation, scripted


class Recording(BaseLLM):
    """Answers by the script and remembers what it was asked."""

    def call(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
        asked = conversation(self._format_messages(messages), tools)
        CONVERSATIONS.append(asked)
        answer = scripted(asked)
        if answer["tool_calls"]:
            return [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in answer["tool_calls"]
            ]
        return answer["text"]

    def supports_function_calling(self) -> bool:
        return True

    def supports_stop_words(self) -> bool:
        return False

    def get_context_window_size(self) -> int:
        return 10_000_000

    def get_input_tokens_count(self, *_: Any, **__: Any) -> int:
        return 1


CONVERSATIONS: list[Any] = []


def run(spec: CrewSpec) -> None:
    """Run a crew the way CrewAI's own users would."""
    llm = Recording(model="m")
    agents = {
        agent.name: Agent(
            role=agent.role,
            goal=agent.goal,
            backstory=agent.backstory,
            llm=llm,
            allow_delegation=agent.allow_delegation,
            use_better_compaction=False,
        )
        for agent in spec.agents
    }
    tasks: dict[str, Task] = {}
    for task in spec.tasks:
        context = {} if task.context is None else {"context": [tasks[name] for name in task.context]}
        tasks[task.name] = Task(
            name=task.name,
            description=task.description,
            expected_output=task.expected_output,
            agent=agents.get(task.agent),
            async_execution=task.async_execution,
            markdown=task.markdown,
            **context,
        )
    hierarchical = spec.process is SpecProcess.HIERARCHICAL
    Crew(
        agents=list(agents.values()),
        tasks=list(tasks.values()),
        process=Process.hierarchical if hierarchical else Process.sequential,
        manager_llm=llm if hierarchical else None,
    ).kickoff()


def main() -> None:
    for line in sys.stdin:
        CONVERSATIONS.clear()
        run(from_document(CrewSpec, json.loads(line)))
        print(json.dumps(CONVERSATIONS), flush=True)


if __name__ == "__main__":
    main()
