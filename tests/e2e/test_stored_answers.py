"""Answers of models that outlive the process that stored them."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from coxswain.client import Unavailable
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
    llm.on(Reply(text=reply), contains=prompt)
    llm.on(Reply(hang=True), contains="under way")
    request = pb.CompleteRequest(completion=_completion(prompt), request_id="report-1")
    hanging = pb.CompleteRequest(completion=_completion("under way"), request_id="report-2")
    streamed = pb.StreamCompleteRequest(completion=_completion("under way"), request_id="report-3")
    suite = SuiteProcess(tmp_path / "data", workers=0, environment=model_environment)
    with suite.running():
        with suite.caller(ALICE) as alice:
            first = alice.models.inference.Complete(request)
        assert (first.text, first.stored) == (reply, False)
        with suite.caller(ALICE) as alice, ThreadPoolExecutor(2) as threads:
            in_flight: list[Future[object]] = [
                threads.submit(alice.models.inference.Complete, hanging),
                threads.submit(list, alice.models.inference.StreamComplete(streamed)),
            ]
            llm.wait_for_calls_sync(2, hanging=True)
            suite.kill()
            for call in in_flight:
                assert isinstance(call.exception(), Unavailable)
        # Nobody waits any more for what the upstream would have said.
        llm.wait_for_calls_sync(2, client_disconnected=True)
        llm.clear_rules()
        llm.on(Reply(text=reply))
        suite.start()
        with suite.caller(ALICE) as alice:
            again = alice.models.inference.Complete(request)
            # What was under way at the kill was not answered: it is asked for again.
            resumed = alice.models.inference.Complete(hanging)
            pieces = list(alice.models.inference.StreamComplete(streamed))
        assert (again.text, again.usage, again.stored) == (reply, first.usage, True)
        assert (resumed.text, resumed.stored) == (reply, False)
        assert "".join(piece.text for piece in pieces) == reply
        logs = suite.logs
    assert sum(prompt in str(call.body) for call in llm.calls) == 1
    assert marks.found_in("\n".join(suite.everything_stored())) == []
    assert marks.found_in(logs) == []


def _completion(text: str) -> pb.Completion:
    message = pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text=text)])
    return pb.Completion(model="openai/gpt-4.1", messages=[message])
