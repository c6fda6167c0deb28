"""What a practice task manages under decides which measures contain crew processes, and nothing else is taken then."""

import json
from pathlib import Path

from services.common.containment.contain import Measure
from tests.support.child_process import run_python

_TRIALS = """
import json, os, signal, sys
from services.orchestrator.worker.crew import containment

def fail():
    raise ValueError("played")

def both():
    os.chmod(".", 0o700)
    os.listdir("/")

practices = {
    "anything": lambda: None,
    "a call that the filter refuses": lambda: os.chmod(".", 0o700),
    "a file that the rules refuse": lambda: os.listdir("/"),
    "both": both,
    "what always fails": fail,
}

def held_by_another(crews, practise):
    reader, writer = os.pipe()
    if os.fork() == 0:
        held = crews.enter("crew")
        practise()
        os.write(writer, json.dumps(sorted(held)).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    return json.loads(os.read(reader, 4096))

found = {}
for name, practise in practices.items():
    home = os.path.join(sys.argv[1], name)
    os.mkdir(home)
    crews = containment.CrewContainment(home, wanted=True)
    crews.try_out(practise)
    assert not os.listdir(home), "nothing of the trial is left"
    found[name] = held_by_another(crews, practise if practise is not fail else lambda: None)
    assert set(found[name]) == crews.measures

containment._PRACTICE_SECONDS = 0.05
crews = containment.CrewContainment(sys.argv[1], wanted=True)
crews.try_out(signal.pause)
found["what hangs"] = sorted(crews.measures)
print(json.dumps(found))
"""


def test_what_a_process_cannot_work_under_is_not_taken(tmp_path: Path) -> None:
    status, output = run_python(["-c", _TRIALS, str(tmp_path)])
    assert status == 0, output
    *words, answer = output.splitlines()
    found = {name: set(map(Measure, measures)) for name, measures in json.loads(answer).items()}
    everything = found.pop("anything")
    assert found == {
        "a call that the filter refuses": everything - {Measure.CALL_FILTER},
        "a file that the rules refuse": everything - {Measure.FILE_RULES},
        "both": everything - {Measure.CALL_FILTER, Measure.FILE_RULES},
        "what always fails": set(),
        "what hangs": set(),
    }
    assert "ValueError: played" in words
    assert [line for line in words if line.endswith("a crew of practice ended with status -14")]
