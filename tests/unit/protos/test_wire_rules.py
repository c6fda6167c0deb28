"""The rules of docs/api-style.md that can be checked on the descriptors of the whole product."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import protovalidate
import pytest
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from coxswain.common.v1 import access_pb2, error_reason_pb2, format_pb2
from tests.support.descriptors import make, product_files, product_messages, product_services
from tools.reference.protos import comments

PACKAGES = ("auth", "common", "memory", "models", "orchestrator", "tools")
SERVICES = ("auth", "memory", "models", "orchestrator", "tools")
# Too general to say anything in a language that imports several packages.
_BARE = {"Filter", "Value", "Request", "Response", "Options", "Config", "Item", "Result", "Key", "Entry"}
_VERBS_ALONE = {"Complete", "StreamComplete", "Embed"}
"""RPCs whose noun is their service's: inference."""

_VALIDATOR = protovalidate.Validator()

every_package = pytest.mark.parametrize("package", PACKAGES)
every_service = pytest.mark.parametrize("package", SERVICES)


def files(package: str) -> list[FileDescriptor]:
    return [file for file in product_files() if file.package == f"coxswain.{package}.v1"]


def messages(package: str) -> list[Descriptor]:
    return [message for message in product_messages() if message.file.package == f"coxswain.{package}.v1"]


def fields(package: str) -> list[FieldDescriptor]:
    return [field for message in messages(package) for field in message.fields]


def methods(package: str) -> list[MethodDescriptor]:
    return [
        method
        for service in product_services()
        if service.file.package == f"coxswain.{package}.v1"
        for method in service.methods
    ]


def rules(field: FieldDescriptor) -> Any:
    return field.GetOptions().Extensions[validate_pb2.field]


def words(name: str) -> list[str]:
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*", name)


# W1


@every_service
def test_an_rpc_names_its_noun_and_its_messages_are_named_after_it(package: str) -> None:
    for method in methods(package):
        assert len(words(method.name)) > 1 or method.name in _VERBS_ALONE, method.full_name
        assert method.input_type.name == f"{method.name}Request", method.full_name
        assert method.output_type.name == f"{method.name}Response", method.full_name


@every_package
def test_no_message_has_a_name_that_says_nothing_by_itself(package: str) -> None:
    named = {message.name for message in messages(package) if message.containing_type is None}
    assert not named & (_BARE | {f"{verb}Request" for verb in ("Get", "List", "Create", "Update", "Delete", "Set")})


@every_package
def test_a_way_to_correct_something_is_a_remedy(package: str) -> None:
    assert [field.full_name for field in fields(package) if "mend" in field.name.split("_")] == []


# W2


@every_service
def test_partial_updates_go_by_a_mask_that_has_to_be_given(package: str) -> None:
    for method in methods(package):
        if method.name.startswith("Update"):
            mask = method.input_type.fields_by_name.get("update_mask")
            assert mask is not None, method.full_name
            assert mask.message_type == FieldMask.DESCRIPTOR, method.full_name
            assert rules(mask).required, method.full_name


@every_service
def test_what_several_people_change_is_changed_at_a_revision(package: str) -> None:
    without_revision = {
        method.name
        for method in methods(package)
        if method.name.startswith("Update")
        and method.name.removeprefix("Update") in named_resources(package)
        and "expected_revision" not in method.input_type.fields_by_name
    }
    # docs/api-style.md says why.
    assert without_revision == ({"UpdateMemoryBackend"} if package == "memory" else set())


# W3


def named_resources(package: str) -> dict[str, Descriptor]:
    """Return what has an id and a unique name of its own, and is got."""
    got = {method.name.removeprefix("Get") for method in methods(package) if method.name.startswith("Get")}
    return {
        message.name: message
        for message in messages(package)
        if message.name in got and {"id", "name"} <= {field.name for field in message.fields}
    }


@every_service
def test_a_resource_with_a_name_is_addressed_by_id_or_by_name(package: str) -> None:
    for resource in named_resources(package):
        for method in methods(package):
            if method.name in {f"{verb}{resource}" for verb in ("Get", "Update", "Delete")}:
                key = method.input_type.oneofs_by_name.get("key")
                assert key is not None, method.full_name
                assert [field.name for field in key.fields] == ["id", "name"], method.full_name
                assert key.GetOptions().Extensions[validate_pb2.oneof].required, method.full_name


@every_service
def test_a_thing_itself_is_its_id(package: str) -> None:
    nouns = {name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in (m.name for m in messages(package))}
    for method in methods(package):
        for name, noun in nouns.items():
            if method.name in {f"{verb}{name}" for verb in ("Get", "Update", "Delete", "Cancel", "Resume", "Answer")}:
                assert f"{noun}_id" not in method.input_type.fields_by_name, method.full_name


# W5


def test_memory_knows_no_crew_by_its_stored_id() -> None:
    assert [field.full_name for field in fields("memory") if field.name == "crew_id"] == []


# W6


_SAYS_WHAT_ABSENCE_MEANS = re.compile(
    r"\b(0|absent|empty|false|has to be|have none|left out|may be|needed|required|unless|UNSPECIFIED)\b"
    "|`update_mask`",
    re.IGNORECASE,
)
_WIDENS = (
    "Accept",
    "Adopt",
    "Cancel",
    "Clear",
    "Delete",
    "Empty",
    "Forget",
    "Lower",
    "Remove",
    "Revoke",
    "Rotate",
    "Set",
)
"""Verbs of calls that take something away or let something through: a field left out must not make them do more."""
_HARMLESS_WHEN_LEFT_OUT = {
    "AcceptToolChangesRequest.tools": "accepts all changes of the list that `list_revision` says was looked at",
    "AdoptIndexRequest.dry_run": "does what the call is named for; rows are kept, and another call changes them back",
    "AdoptIndexRequest.from_group": "leaves the group of the rows as it is",
    "AdoptIndexRequest.index": "is the index that the backend's configuration names",
    "DeleteGroupRequest.confirm_id": "is refused: it has to equal the id",
    "DeleteEndpointRequest.confirm_name": "is refused: it has to equal the name",
    "DeleteIndexRequest.confirm_name": "is refused: it has to equal the name",
    "DeleteIndexRecordsRequest.memory_id": "names the rows by their primary keys, and no others",
    "DeleteMemoryBackendRequest.successor_id": "refuses to delete the active backend",
    "DeleteMemoryBackendRequest.successor_name": "refuses to delete the active backend",
    "DeleteRecordsRequest.filter": "leaves the ids; neither of both is refused",
    "DeleteRecordsRequest.ids": "leaves the filter; neither of both is refused",
    "DeleteRecordsRequest.purge_history": "keeps them in the history",
    "DeleteToolSourceRequest.force": "refuses to delete a source that crews use",
    "EmptyIndexRequest.confirm_name": "is refused: it has to equal the name",
    "EmptyIndexRequest.memory_id": "empties the index whose name is confirmed, as the call says",
    "ForgetSubjectRequest.dry_run": "does what the call is named for, to the one subject that has to be given",
    "LowerGroupLimitsRequest.limits": "lifts what the mask names, no higher than the operator's limit",
    "LowerGroupLimitsRequest.update_mask": "is refused",
    "RotateWebhookSigningKeyRequest.former_key_lifetime": "lets the former key sign for a day, so that nothing breaks",
    "SetBudgetCeilingRequest.scope": "is for all calls of the group that has to be given, which is the usual case",
    "SetBudgetRequest.scope": "is for all calls of the group, which is the usual case; an empty budget is refused",
    "SetGroupLimitsRequest.clear_lowered": "leaves what admins have lowered",
    "SetGroupLimitsRequest.limits": "gives what the mask names the installation's default",
    "SetGroupLimitsRequest.update_mask": "is refused, unless there is something to clear",
}


def fields_at_fault(message: Message) -> list[str]:
    """Return the fields of a request, or the choices between them, that break a rule."""
    paths = [fault.proto.field for fault in _VALIDATOR.collect_violations(message)]
    return [path.elements[0].field_name for path in paths if path is not None]


def may_be_left_out() -> Iterator[tuple[MethodDescriptor, FieldDescriptor]]:
    """Yield the fields that a changing request of the public API is valid without, but for those of a few kinds.

    A map that is left out is an empty one, and a `request_id` only makes repeating safe.
    """
    for method in (method for package in SERVICES for method in methods(package)):
        options = method.GetOptions()
        if options.idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS:
            continue
        if options.Extensions[access_pb2.access] != access_pb2.ACCESS_PUBLIC:
            continue
        asked_for = set(fields_at_fault(GetMessageClass(method.input_type)()))
        for field in method.input_type.fields:
            choice = field.containing_oneof.name if field.containing_oneof else field.name
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            if not {field.name, choice} & asked_for and field.name != "request_id" and not is_map:
                yield method, field


def test_a_field_that_may_be_left_out_says_what_that_means() -> None:
    silent = {
        field.full_name
        for _, field in may_be_left_out()
        if not _SAYS_WHAT_ABSENCE_MEANS.search(comments()[field.full_name])
    }
    assert silent == set()


def test_a_field_left_out_takes_nothing_more_away_and_lets_nothing_more_through() -> None:
    found = {
        f"{method.input_type.name}.{field.name}"
        for method, field in may_be_left_out()
        if method.name.startswith(_WIDENS)
    }
    assert found == set(_HARMLESS_WHEN_LEFT_OUT)


@pytest.mark.parametrize(
    ("request_name", "fields", "at_fault"),
    [
        ("models.v1.SetModelEnabledRequest", {"name": "openai/gpt-4o"}, "enabled"),
        ("models.v1.SetBudgetRequest", {"budget": {}}, "budget"),
        ("models.v1.SetBudgetRequest", {"budget": {"alertShare": 0.8}}, "budget"),
        ("models.v1.DeleteBudgetRequest", {}, "scope"),
        ("orchestrator.v1.AcceptToolChangesRequest", {"name": "crm"}, "list_revision"),
        ("orchestrator.v1.AnswerQuestionRequest", {"id": "1"}, "answer"),
    ],
)
def test_what_decides_has_to_be_given(request_name: str, fields: dict[str, Any], at_fault: str) -> None:
    assert fields_at_fault(ParseDict(fields, make(request_name))) == [at_fault]


# W8


def patterns(found: Any, at: str = "") -> Iterator[str]:
    """Yield where the rules of a field have a pattern: for itself, its items, its keys or its values."""
    if found.HasField("string") and found.string.HasField("pattern"):
        yield at
    if found.HasField("repeated") and found.repeated.HasField("items"):
        yield from patterns(found.repeated.items, f"{at}items")
    if found.HasField("map"):
        for part in ("keys", "values"):
            if found.map.HasField(part):
                yield from patterns(getattr(found.map, part), f"{at}{part}")


@every_package
def test_a_field_with_a_pattern_says_in_words_what_it_asks_for(package: str) -> None:
    for field in fields(package):
        described = field.GetOptions().Extensions[format_pb2.format]
        found = list(patterns(rules(field)))
        assert bool(found) == bool(described), field.full_name
        assert len(found) <= 1, f"one text cannot describe several patterns: {field.full_name}"


# W9


@every_service
def test_a_call_with_a_request_id_is_repeated_by_whoever_gave_it(package: str) -> None:
    for method in methods(package):
        options = method.GetOptions()
        assert options.HasField("idempotency_level"), method.full_name
        if "request_id" in method.input_type.fields_by_name:
            assert options.idempotency_level == descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN, method.full_name


# W10


@every_package
def test_every_file_names_its_package_in_other_languages(package: str) -> None:
    camel = package.capitalize()
    for file in files(package):
        options = file.GetOptions()
        assert (
            options.csharp_namespace,
            options.go_package,
            options.java_multiple_files,
            options.java_package,
            options.php_namespace,
            options.ruby_package,
        ) == (
            f"Coxswain.{camel}.V1",
            f"example.com/coxswain/{package}/v1;{package}v1",
            True,
            f"coxswain.{package}.v1",
            f"Coxswain\\{camel}\\V1",
            f"Coxswain::{camel}::V1",
        ), file.name


@every_package
def test_no_two_fields_have_the_same_accessor_in_java(package: str) -> None:
    """Java gives a text `x` also `getXBytes()`, and a repeated `x` `getXCount()` and `getXList()`."""
    for message in messages(package):
        for field in message.fields:
            suffixes = ["_bytes"] if field.type == FieldDescriptor.TYPE_STRING else []
            suffixes += ["_count", "_list"] if field.is_repeated else []
            assert not {f"{field.name}{suffix}" for suffix in suffixes} & set(message.fields_by_name), field.full_name


@every_package
def test_no_class_of_a_file_is_called_like_a_message_in_java(package: str) -> None:
    """Java makes a class of each file beside those of its messages and enums; protoc evades only those in the file."""
    classes = [name for file in files(package) for name in (*file.message_types_by_name, *file.enum_types_by_name)]
    for file in files(package):
        own = {*file.message_types_by_name, *file.enum_types_by_name, *file.services_by_name}
        derived = "".join(word.capitalize() for word in Path(file.name).stem.split("_"))
        outer = file.GetOptions().java_outer_classname or (f"{derived}OuterClass" if derived in own else derived)
        assert outer not in classes, file.name


# W11


@every_package
def test_service_files_hold_services_and_nothing_else(package: str) -> None:
    for file in files(package):
        if file.name.endswith("_service.proto"):
            assert len(file.services_by_name) == 1, file.name
            assert not file.message_types_by_name, file.name
            assert not file.enum_types_by_name, file.name
        else:
            assert not file.services_by_name, file.name


# W12


def test_every_reason_that_is_sent_is_in_the_enum_without_its_prefix() -> None:
    documented = {name.removeprefix("ERROR_REASON_") for name in dict(error_reason_pb2.ErrorReason.items())}
    services = Path(__file__).resolve().parents[3] / "services"
    sent = {
        (reason, str(file.relative_to(services)))
        for file in services.rglob("*.py")
        for reason in re.findall(r'\b(?:default_)?reason(?:: str)? ?= ?"([A-Z_]+)"', file.read_text())
    }
    assert len(sent) > 50
    assert {(reason, file) for reason, file in sent if reason not in documented} == set()


# W13


@every_package
def test_comments_say_something(package: str) -> None:
    short = [
        f"{name}: {comment.strip()}"
        for name, comment in comments().items()
        if name.startswith(f"coxswain.{package}.v1.")
        and len(re.findall(r"[^\W_][\w'`./-]*", comment)) < 4
        and not _is_plain_oneof(name, comment)
    ]
    assert short == []


def _is_plain_oneof(name: str, comment: str) -> bool:
    """Whether it is a choice that its fields describe."""
    return not comment and any(oneof.full_name == name for message in product_messages() for oneof in message.oneofs)


# What others implement


def test_what_others_implement_needs_no_other_proto_than_its_own_and_the_well_known_ones() -> None:
    own = {file.name for file in files("tools")}
    assert own
    needed = {dependency.name for file in files("tools") for dependency in file.dependencies}
    assert {name for name in needed - own if not name.startswith("google/protobuf/")} == set()


def test_what_others_implement_says_nothing_of_who_may_call_it_here() -> None:
    for method in methods("tools"):
        assert not method.GetOptions().HasExtension(access_pb2.access), method.full_name
        assert not method.GetOptions().HasExtension(access_pb2.role), method.full_name
