"""What a model or another server wrote never controls the terminal that shows it, now or when a file is read later."""

import json

import pytest

from coxswain.client.cli.session import Session, harmless

ODD = "a\x1b]0;own\x07 b\u009b31m c\u202egpj \u2066d\u200f"
SHOWN = "a\ufffd]0;own\ufffd b\ufffd31m c\ufffdgpj \ufffdd\ufffd"


def test_controls_are_visible_in_pipes_too(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session()
    session.show(ODD)
    session.say(ODD)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{SHOWN}\n", f"{SHOWN}\n")
    assert (
        harmless("two\r\nlines\tand a tab: \u00e9\u4e2d\U0001f600") == "two\nlines\tand a tab: \u00e9\u4e2d\U0001f600"
    )


def test_json_escapes_them(capsys: pytest.CaptureFixture[str]) -> None:
    Session().print_json({"text": ODD})
    line = capsys.readouterr().out
    assert line.isprintable() or line[:-1].isprintable()
    assert json.loads(line) == {"text": ODD}


def test_results_are_printed_as_they_are_when_somebody_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert Session(raw=True).safe(ODD) == ODD
    Session(raw=True).say(ODD)
    assert capsys.readouterr().err == f"{SHOWN}\n"
