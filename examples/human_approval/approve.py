"""Runs a crew whose result a person approves, replaces or sends back, here at the terminal.

Use: python approve.py FILE
"""

import sys
from pathlib import Path

from coxswain.client import Client, load_crew
from coxswain.orchestrator.v1.execution_pb2 import GetExecutionRequest
from coxswain.orchestrator.v1.question_pb2 import (
    AcceptQuestion,
    AnswerQuestionRequest,
    DeclineQuestion,
    GetQuestionRequest,
    Question,
)

CREW = load_crew(Path(__file__).with_name("crew.yaml"))


def answer(question: Question) -> AnswerQuestionRequest:
    """Ask the person at the terminal."""
    print(f"{question.text} (attempt {question.attempt})\n\n{question.result.text}\n")
    said = input("Enter to accept, = and another text to take that, anything else says what to do better: ")
    request = AnswerQuestionRequest(id=question.id)
    if said and not said.startswith("="):
        request.decline.CopyFrom(DeclineQuestion(reason=said))
        return request
    request.accept.CopyFrom(AcceptQuestion())
    if said:
        request.accept.content.string_value = said.removeprefix("=").strip()
    return request


def main() -> None:
    """Start, answer what is asked, print the result."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    with Client() as client:
        execution = client.start(CREW, {"text": text})
        # The execution waits without a worker: this program may end here and answer tomorrow.
        for event in client.watch(execution.id):
            if event.HasField("question_raised"):
                asked = client.questions.GetQuestion(GetQuestionRequest(id=event.question_raised.question_id))
                client.questions.AnswerQuestion(answer(asked.question))
        ended = client.executions.GetExecution(GetExecutionRequest(id=execution.id)).execution
    print(ended.result.text or f"no letter: {ended.error.message}")


if __name__ == "__main__":
    main()
