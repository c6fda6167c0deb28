"""Answers of models that outlive the process that stored them."""

from pathlib import Path

from coxswain.models.v1 import inference_pb2 as pb
from tests.e2e.support import ALICE
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply
from tests.support.marked_secrets import MarkedSecrets
from tests.support.suite_process import SuiteProcess


def test_a_call_repeated_after_a_kill_gets_its_answer_and_no_prompt_or_answer_can_be_read_at_rest(
    tmp_path: Path, llm: LlmEmulator, model_environment: dict[str, str]
) -> None:
    marks = MarkedSecrets()
    prompt = marks.add("prompt", "prompt-2f8b6d4a9c1e7053")
    reply = marks.add("answer", "answer-8c3a5e1f7b9d2640")
    llm.clear_rules()
    llm.on(Reply(text=reply), contains=prompt)
    request = pb.CompleteRequest(
        completion=pb.Completion(
            model="openai/gpt-4.1",
            messages=[pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text=prompt)])],
        ),
        request_id="report-1",
    )
    suite = SuiteProcess(tmp_path / "data", workers=0, environment=model_environment)
    with suite.running():
        with suite.caller(ALICE) as alice:
            first = alice.models.inference.Complete(request)
        assert (first.text, first.stored) == (reply, False)
        suite.kill()
        suite.start()
        with suite.caller(ALICE) as alice:
            again = alice.models.inference.Complete(request)
        assert (again.text, again.usage, again.stored) == (reply, first.usage, True)
        logs = suite.logs
    assert sum(prompt in str(call.body) for call in llm.calls) == 1
    assert marks.found_in("\n".join(suite.everything_stored())) == []
    assert marks.found_in(logs) == []
