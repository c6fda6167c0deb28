"""docs/errors.md and the reference of the API are what the protos say."""

import html
import re
from functools import cache
from pathlib import Path

import pytest

from coxswain.common.v1 import access_pb2
from coxswain.common.v1.error_reason_pb2 import ErrorReason
from tests.support.descriptors import product_messages, product_services
from tests.support.links import broken_links
from tools.reference.__main__ import ERRORS_PAGE
from tools.reference.api_pages import api_pages, page_of
from tools.reference.errors_page import errors_page

ROOT = Path(__file__).parents[2]
_DIRECTORY = "docs/api"


@cache
def pages() -> dict[str, str]:
    return api_pages()


def words(text: str) -> str:
    return " ".join(html.unescape(text.replace("\\", "").replace("<br>", " ")).split())


def section(page: str, heading: str) -> str:
    """Return what stands below a heading, which has to be there once."""
    _, text = re.split(rf"^#+ {re.escape(heading)}$", pages()[page], flags=re.MULTILINE)
    return re.split(r"^#+ ", text, flags=re.MULTILINE)[0]


def test_the_page_of_errors_is_up_to_date() -> None:
    assert ERRORS_PAGE.read_text(encoding="utf-8") == errors_page(), "run `make reference`"


def test_every_reason_has_a_status_a_meaning_and_an_example() -> None:
    sections = re.split(r"^### ", errors_page(), flags=re.MULTILINE)[1:]
    assert [text.split("\n")[0] for text in sections] == [
        name.removeprefix("ERROR_REASON_") for name, number in ErrorReason.items() if number
    ]
    for text in sections:
        assert re.search(r"^Status: ", text, re.MULTILINE), text
        assert re.search(r"^Example: ", text, re.MULTILINE), text
        assert "Remedy: " not in text


def test_what_a_caller_does_about_a_reason_stands_with_it() -> None:
    assert (
        "\nWhat to do: Name one of `groups` in `x-group-id`."
        in re.split(r"^### GROUP_REQUIRED$", errors_page(), flags=re.MULTILINE)[1].split("###")[0]
    )


def test_every_method_is_described_with_its_role_its_messages_and_what_repeating_does() -> None:
    for service in product_services():
        for method in service.methods:
            text = section(page_of(service.file.name), method.name)
            assert f"[{method.input_type.name}](" in text, method.full_name
            assert f"[{method.output_type.name}](" in text, method.full_name
            role = access_pb2.Role.Name(method.GetOptions().Extensions[access_pb2.role]).removeprefix("ROLE_").lower()
            if role not in {"unspecified", "anonymous"}:
                assert f"| role | {role.replace('_', ' ')} |" in text, method.full_name
            assert "| repeating | " in text, method.full_name
            assert "| deadline | " in text, method.full_name
            assert f"[{method.name}]({page_of(service.file.name)}#{method.name.lower()})" in pages()["README.md"]


def test_every_field_is_described() -> None:
    for message in product_messages():
        text = section(page_of(message.file.name), message.full_name.removeprefix(f"{message.file.package}."))
        assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [field.name for field in message.fields]


def test_no_comment_of_a_proto_is_lost() -> None:
    for proto in sorted((ROOT / "protos").rglob("*.proto")):
        name = proto.relative_to(ROOT / "protos").as_posix()
        if page_of(name) not in pages():
            assert name == "coxswain/common/v1/format.proto"
            continue
        source = re.sub(r"^extend .*?^}", "", proto.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        shown = words(pages()[page_of(name)].replace("\\|", "|"))
        for block in re.findall(r"(?:^ *//.*\n)+(?=^ *(?!option)[a-zA-Z])", source, re.MULTILINE):
            assert words(re.sub(r"^ *// ?", "", block, flags=re.MULTILINE)) in shown, f"{name}: {block}"


@pytest.mark.parametrize(
    ("page", "row"),
    [
        (
            "orchestrator/schedule.md",
            "| `time_zone` | string | Time zone of `cron`, by its IANA name; empty means UTC.",
        ),
        ("orchestrator/schedule.md", "Rules: 1 to 128 characters; else refused with"),
        ("orchestrator/execution.md", "| deadline | none by default |"),
        ("models/inference.md", "| deadline | 600 s by default |"),
        ("auth/auth.md", "| internal | served to "),
    ],
)
def test_rules_defaults_and_deadlines_are_said(page: str, row: str) -> None:
    assert row in pages()[page]


def test_links_of_the_reference_lead_somewhere() -> None:
    placed = {f"{_DIRECTORY}/{path}": text for path, text in pages().items()}
    assert broken_links(placed, lambda path: (ROOT / path).exists()) == []
