"""Configuration of models, as callers see it."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.models.v1 import model_pb2 as pb
from services.models.price_list import find_listed
from tests.integration.models.support import CHAT, OFFLINE, SEED, Installation, ask, read_refusal, refusal
from tests.support.harness import ALICE, BOB

OPERATOR = "dev:olga:sales=operator"


def own(name: str = "sales/own", **fields: object) -> pb.Model:
    values: dict[str, object] = {
        "provider": pb.PROVIDER_OPENAI,
        "upstream_model": "chat",
        "capabilities": pb.Capabilities(chat=True),
        **fields,
    }
    return pb.Model(name=name, **values)  # type: ignore[arg-type]


async def names(installation: Installation, bearer: str = ALICE, **fields: object) -> list[str]:
    response = await installation.models(bearer).ListModels(pb.ListModelsRequest(**fields))  # type: ignore[arg-type]
    return [model.name for model in response.models]


async def test_the_seeded_models_are_listed_by_name_in_pages_without_gap_or_repeat(served: Installation) -> None:
    found: list[str] = []
    token = ""
    while True:
        page = await served.models().ListModels(pb.ListModelsRequest(page_size=2, page_token=token))
        assert len(page.models) <= 2
        found += [model.name for model in page.models]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(entry["name"] for entry in SEED)
    assert all(model.shared and model.enabled for model in page.models)


async def test_a_page_token_counts_only_for_its_listing_its_group_and_its_filters(models: Installation) -> None:
    page = await models.models().ListModels(pb.ListModelsRequest(page_size=1))
    for bearer, fields in [(ALICE, {"enabled_only": True}), (BOB, {})]:
        request = pb.ListModelsRequest(page_size=1, page_token=page.next_page_token, **fields)
        failure = await refusal(models.models(bearer).ListModels(request))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_an_unknown_name_is_answered_with_near_ones(served: Installation) -> None:
    failure = await refusal(served.models().GetModel(pb.GetModelRequest(name="offline/extrac")))
    assert failure.code is grpc.StatusCode.NOT_FOUND
    assert failure.reason == "MODEL_NOT_FOUND"
    assert failure.metadata == {"model": "offline/extrac"}
    assert OFFLINE in failure.message


async def test_a_groups_model_hides_the_shared_one_of_its_name_from_that_group_only(served: Installation) -> None:
    await served.models().CreateModel(pb.CreateModelRequest(model=own(CHAT, description="ours")))
    mine = (await served.models().GetModel(pb.GetModelRequest(name=CHAT))).model
    theirs = (await served.models(BOB).GetModel(pb.GetModelRequest(name=CHAT))).model
    assert (mine.description, mine.shared) == ("ours", False)
    assert (theirs.description, theirs.shared) == ("", True)
    assert (await names(served)).count(CHAT) == 1
    await served.models().DeleteModel(pb.DeleteModelRequest(name=CHAT))
    assert (await served.models().GetModel(pb.GetModelRequest(name=CHAT))).model.shared


async def test_no_group_reads_calls_changes_or_deletes_anothers_model(served: Installation) -> None:
    await served.models().CreateModel(pb.CreateModelRequest(model=own("sales/secret")))
    bob = served.models(BOB)
    assert "sales/secret" not in await names(served, BOB)
    mask = FieldMask(paths=["description"])
    for call in (
        bob.GetModel(pb.GetModelRequest(name="sales/secret")),
        bob.UpdateModel(pb.UpdateModelRequest(name="sales/secret", model=own(), update_mask=mask)),
        bob.DeleteModel(pb.DeleteModelRequest(name="sales/secret")),
        bob.SetModelEnabled(pb.SetModelEnabledRequest(name="sales/secret", enabled=False)),
        served.inference(BOB).Complete(ask("sales/secret")),
    ):
        failure = await refusal(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    # Nor does a near name of another group's model leak.
    failure = await refusal(bob.GetModel(pb.GetModelRequest(name="sales/secre")))
    assert "sales/secret" not in failure.message
    assert (await served.models().GetModel(pb.GetModelRequest(name="sales/secret"))).model.enabled


async def test_a_repeated_request_id_makes_one_model_and_refuses_another_body(served: Installation) -> None:
    request = pb.CreateModelRequest(model=own(), request_id="r1")
    first = await served.models().CreateModel(request)
    assert await served.models().CreateModel(request) == first
    other = pb.CreateModelRequest(model=own(description="other"), request_id="r1")
    failure = await refusal(served.models().CreateModel(other))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    failure = await refusal(served.models().CreateModel(pb.CreateModelRequest(model=own())))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


async def test_an_update_changes_the_named_fields_and_no_other(served: Installation) -> None:
    created = (
        await served.models().CreateModel(
            pb.CreateModelRequest(model=own(temperature=0.5, description="before", max_output_tokens=7))
        )
    ).model
    change = own(description="after", max_output_tokens=9, context_window=11, capabilities=pb.Capabilities(tools=True))
    updated = (
        await served.models().UpdateModel(
            pb.UpdateModelRequest(
                name="sales/own",
                model=change,
                update_mask=FieldMask(paths=["description", "temperature", "capabilities.tools", "contextWindow"]),
            )
        )
    ).model
    assert (updated.description, updated.max_output_tokens, updated.context_window) == ("after", 7, 11)
    assert not updated.HasField("temperature")
    assert updated.capabilities == pb.Capabilities(chat=True, tools=True)
    assert updated.update_time.ToNanoseconds() > created.update_time.ToNanoseconds()
    assert (await served.models().GetModel(pb.GetModelRequest(name="sales/own"))).model == updated


PRICES = (
    "input_cost_per_million_tokens",
    "output_cost_per_million_tokens",
    "cached_input_cost_per_million_tokens",
    "cache_write_cost_per_million_tokens",
)


async def test_a_price_is_absent_free_or_a_sum(served: Installation) -> None:
    prices: dict[str, Any] = {PRICES[0]: 10.0, PRICES[1]: 0.0, PRICES[2]: 1.0}
    created = await served.models().CreateModel(
        pb.CreateModelRequest(model=own(max_input_tokens=5, context_window=9, **prices))
    )
    found = (await served.models().GetModel(pb.GetModelRequest(name="sales/own"))).model
    assert found == created.model
    assert {name: getattr(found, name) for name in PRICES if found.HasField(name)} == prices
    assert (found.max_input_tokens, found.context_window) == (5, 9)
    request = pb.UpdateModelRequest(
        name="sales/own",
        model=pb.Model(cache_write_cost_per_million_tokens=12.5),
        update_mask=FieldMask(paths=list(PRICES)),
    )
    changed = (await served.models().UpdateModel(request)).model
    assert [name for name in PRICES if changed.HasField(name)] == [PRICES[3]]


async def test_the_packaged_list_fills_in_what_a_model_leaves_out_and_stays_out_of_its_row(
    served: Installation,
) -> None:
    listed = find_listed("openai/gpt-5-mini")
    assert listed is not None
    created = (
        await served.models().CreateModel(
            pb.CreateModelRequest(model=pb.Model(name="openai/gpt-5-mini", provider=pb.PROVIDER_OPENAI))
        )
    ).model
    assert created.input_cost_per_million_tokens == listed.input
    assert (created.context_window, created.max_output_tokens) == (listed.max_input_tokens, listed.max_output_tokens)
    assert created.capabilities.chat
    assert created.capabilities.tools
    (seen,) = [
        model
        for model in (await served.models().ListModels(pb.ListModelsRequest())).models
        if model.name == "openai/gpt-5-mini"
    ]
    assert seen == created
    assert (await served.models().GetModel(pb.GetModelRequest(name=created.name))).model == created
    assert (await served.models().GetModel(pb.GetModelRequest(id=created.id))).model == created
    # A change of another field does not write down what the list says.
    request = pb.UpdateModelRequest(
        id=created.id, model=pb.Model(context_window=9000), update_mask=FieldMask(paths=["context_window"])
    )
    changed = (await served.models().UpdateModel(request)).model
    assert set(created.listed_fields) - set(changed.listed_fields) == {"context_window"}
    assert changed.context_window == 9000
    # At an address of its own it is another's deployment, of which the list knows nothing.
    request = pb.UpdateModelRequest(
        id=created.id,
        model=pb.Model(base_url="https://example.com/v1", capabilities=pb.Capabilities(chat=True)),
        update_mask=FieldMask(paths=["base_url", "capabilities"]),
    )
    elsewhere = (await served.models().UpdateModel(request)).model
    assert list(elsewhere.listed_fields) == []
    assert not elsewhere.HasField("input_cost_per_million_tokens")
    assert elsewhere.max_output_tokens == 0


async def test_a_call_of_a_listed_model_costs_what_the_list_says(models: Installation) -> None:
    listed = find_listed("openai/gpt-4.1-mini")
    assert listed is not None
    assert listed.input
    assert listed.output
    model = pb.Model(name="openai/gpt-4.1-mini", provider=pb.PROVIDER_OPENAI)
    await models.models().CreateModel(pb.CreateModelRequest(model=model))
    usage = (await models.inference().Complete(ask(model.name))).usage
    assert usage.input_tokens
    assert usage.output_tokens
    expected = (usage.input_tokens * listed.input + usage.output_tokens * listed.output) / 1_000_000
    assert usage.cost == pytest.approx(expected)


async def test_a_change_of_what_was_changed_meanwhile_is_refused_with_the_present_revision(
    served: Installation,
) -> None:
    created = (await served.models().CreateModel(pb.CreateModelRequest(model=own()))).model
    assert created.revision == 1

    def change(description: str, expected_revision: int = 0) -> pb.UpdateModelRequest:
        return pb.UpdateModelRequest(
            name="sales/own",
            model=pb.Model(description=description),
            update_mask=FieldMask(paths=["description"]),
            expected_revision=expected_revision,
        )

    assert (await served.models().UpdateModel(change("second", 1))).model.revision == 2
    failure = await refusal(served.models().UpdateModel(change("third", 1)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
    assert (failure.metadata["expected"], failure.metadata["actual"]) == ("1", "2")
    # The same change again is no new revision, so that a call whose answer was lost may be repeated.
    repeated = (await served.models().UpdateModel(change("second", 1))).model
    assert (repeated.description, repeated.revision) == ("second", 2)
    assert (await served.models().UpdateModel(change("third"))).model.revision == 3


async def test_of_changes_made_at_once_from_one_revision_a_single_one_is_stored(served: Installation) -> None:
    await served.models().CreateModel(pb.CreateModelRequest(model=own()))

    async def change(number: int) -> str:
        request = pb.UpdateModelRequest(
            name="sales/own",
            model=pb.Model(description=str(number)),
            update_mask=FieldMask(paths=["description"]),
            expected_revision=1,
        )
        try:
            return str((await served.models().UpdateModel(request)).model.description)
        except grpc.aio.AioRpcError as error:
            return read_refusal(error).reason

    answers = await asyncio.gather(*map(change, range(8)))
    stored = [answer for answer in answers if answer != "REVISION_MISMATCH"]
    assert len(stored) == 1
    found = (await served.models().GetModel(pb.GetModelRequest(name="sales/own"))).model
    assert (found.description, found.revision) == (stored[0], 2)


async def test_an_update_of_everything_keeps_the_name_and_what_the_service_decides(models: Installation) -> None:
    created = (await models.models().CreateModel(pb.CreateModelRequest(model=own(description="before")))).model
    change = own("sales/other", id="mine", shared=True, temperature=0.5)
    mask = FieldMask(paths=["*"])
    request = pb.UpdateModelRequest(name="sales/own", model=change, update_mask=mask)
    changed = (await models.models().UpdateModel(request)).model
    assert (changed.id, changed.name, changed.shared) == (created.id, "sales/own", False)
    assert (changed.description, changed.temperature) == ("", 0.5)


async def test_an_update_looks_at_nothing_that_its_mask_does_not_name(models: Installation) -> None:
    created = (await models.models().CreateModel(pb.CreateModelRequest(model=own(description="before")))).model
    wrong = pb.Model(
        name="no name at all",
        description="after",
        provider=99,  # type: ignore[arg-type]  # no provider
        base_url="nowhere",
        context_window=-1,
        temperature=7.5,
    )
    mask = FieldMask(paths=["description"])
    changed = (
        await models.models().UpdateModel(pb.UpdateModelRequest(id=created.id, model=wrong, update_mask=mask))
    ).model
    created.description = "after"
    created.update_time.CopyFrom(changed.update_time)
    created.revision = 2
    assert changed == created


@pytest.mark.parametrize(
    ("change", "paths", "fields"),
    [
        (pb.Model(temperature=7.5), ["temperature"], ["model.temperature"]),
        (pb.Model(base_url="nowhere"), ["base_url", "description"], ["model.base_url"]),
        (
            pb.Model(context_window=-1, temperature=-1),
            ["*"],
            ["model.context_window", "model.temperature"],
        ),
        (pb.Model(), ["provider"], ["model.provider"]),
        (pb.Model(), ["capabilities"], ["model.capabilities"]),
    ],
)
async def test_an_update_is_refused_when_what_it_names_breaks_a_rule(
    models: Installation, change: pb.Model, paths: list[str], fields: list[str]
) -> None:
    created = (await models.models().CreateModel(pb.CreateModelRequest(model=own()))).model
    request = pb.UpdateModelRequest(name="sales/own", model=change, update_mask=FieldMask(paths=paths))
    failure = await refusal(models.models().UpdateModel(request))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields == fields
    assert (await models.models().GetModel(pb.GetModelRequest(name="sales/own"))).model == created


@pytest.mark.parametrize(
    ("paths", "field"),
    [
        ([], "update_mask"),
        (["name"], "update_mask.paths[0]"),
        (["enabled"], "update_mask.paths[0]"),
        (["capabilities.flying"], "update_mask.paths[0]"),
        (["description", "nonsense"], "update_mask.paths[1]"),
        (["description", "*"], "update_mask.paths[1]"),
    ],
)
async def test_an_update_mask_that_names_nothing_changeable_is_refused(
    models: Installation, paths: list[str], field: str
) -> None:
    await models.models().CreateModel(pb.CreateModelRequest(model=own()))
    request = pb.UpdateModelRequest(
        name="sales/own", model=own(description="after"), update_mask=FieldMask(paths=paths)
    )
    failure = await refusal(models.models().UpdateModel(request))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields == [field]
    assert (await models.models().GetModel(pb.GetModelRequest(name="sales/own"))).model.description == ""


async def test_shared_models_can_be_neither_changed_nor_deleted_and_the_answer_says_what_can(
    models: Installation,
) -> None:
    mask = FieldMask(paths=["description"])
    for call in (
        models.models().UpdateModel(pb.UpdateModelRequest(name=CHAT, model=own(), update_mask=mask)),
        models.models().DeleteModel(pb.DeleteModelRequest(name=CHAT)),
    ):
        failure = await refusal(call)
        assert failure.code is grpc.StatusCode.NOT_FOUND
        assert "shared" in failure.message
        assert "SetModelEnabled" in failure.message


async def test_a_disabled_model_refuses_the_very_next_call_of_that_group_only(served: Installation) -> None:
    await served.inference().Complete(ask(CHAT))
    switched = await served.models().SetModelEnabled(pb.SetModelEnabledRequest(name=CHAT, enabled=False))
    assert not switched.model.enabled
    failure = await refusal(served.inference().Complete(ask(CHAT)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_DISABLED")
    assert failure.metadata == {"model": CHAT}
    assert CHAT not in await names(served, enabled_only=True)
    assert CHAT in await names(served)
    await served.inference(BOB).Complete(ask(CHAT))
    for _ in range(2):
        await served.models().SetModelEnabled(pb.SetModelEnabledRequest(name=CHAT, enabled=True))
    await served.inference().Complete(ask(CHAT))
    assert len(served.llm.calls) == 3


async def test_a_model_is_read_changed_switched_and_deleted_by_its_id_or_its_name(served: Installation) -> None:
    created = (await served.models().CreateModel(pb.CreateModelRequest(model=own(id="mine")))).model  # ignored
    assert created.id not in ("", "mine")
    shared = (await served.models().GetModel(pb.GetModelRequest(name=CHAT))).model
    for key in ({"id": created.id}, {"name": created.name}):
        assert (await served.models().GetModel(pb.GetModelRequest(**key))).model == created
        request = pb.UpdateModelRequest(
            model=pb.Model(description=str(key)), update_mask=FieldMask(paths=["description"]), **key
        )
        created = (await served.models().UpdateModel(request)).model
        assert created.description == str(key)
        for enabled in (False, True):
            await served.models().SetModelEnabled(pb.SetModelEnabledRequest(enabled=enabled, **key))
            assert (await served.models().GetModel(pb.GetModelRequest(name=created.name))).model.enabled == enabled
    await served.models().SetModelEnabled(pb.SetModelEnabledRequest(id=shared.id, enabled=False))
    assert (await refusal(served.inference().Complete(ask(CHAT)))).reason == "MODEL_DISABLED"
    await served.models().DeleteModel(pb.DeleteModelRequest(id=created.id))
    for call in (
        served.models().GetModel(pb.GetModelRequest(id=created.id)),
        served.models().DeleteModel(pb.DeleteModelRequest(id=created.id)),
        served.models(BOB).GetModel(pb.GetModelRequest(id="nobody's")),
    ):
        failure = await refusal(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_a_model_that_is_deleted_while_it_is_switched_is_not_found(served: Installation) -> None:
    for _ in range(5):
        created = (await served.models().CreateModel(pb.CreateModelRequest(model=own()))).model
        switches = [
            served.models().SetModelEnabled(pb.SetModelEnabledRequest(id=created.id, enabled=False)) for _ in range(4)
        ]
        deletion = served.models().DeleteModel(pb.DeleteModelRequest(id=created.id))
        results = await asyncio.gather(*switches[:2], deletion, *switches[2:], return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            assert isinstance(failure, grpc.aio.AioRpcError), failure
            assert failure.code() is grpc.StatusCode.NOT_FOUND


async def test_a_request_that_names_no_model_or_leaves_out_what_to_set_is_refused(models: Installation) -> None:
    for request, field in (
        (pb.SetModelEnabledRequest(name=CHAT), "enabled"),
        (pb.SetModelEnabledRequest(enabled=True), "key"),
        (pb.SetModelEnabledRequest(id="", enabled=True), "id"),
    ):
        failure = await refusal(models.models().SetModelEnabled(request))
        assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert (await models.models().GetModel(pb.GetModelRequest(name=CHAT))).model.enabled


async def test_only_admins_configure_models(models: Installation) -> None:
    operator = models.models(OPERATOR)
    await operator.GetModel(pb.GetModelRequest(name=CHAT))
    for call in (
        operator.CreateModel(pb.CreateModelRequest(model=own())),
        operator.SetModelEnabled(pb.SetModelEnabledRequest(name=CHAT, enabled=False)),
        operator.DeleteModel(pb.DeleteModelRequest(name=CHAT)),
    ):
        assert (await refusal(call)).reason == "ROLE_REQUIRED"


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (own(provider=pb.PROVIDER_UNSPECIFIED), "model.provider"),
        (own(capabilities=pb.Capabilities(tools=True)), "model.capabilities"),
        (own(provider=pb.PROVIDER_OFFLINE, upstream_model="gpt"), "model.upstream_model"),
        (own(provider=pb.PROVIDER_OFFLINE, upstream_model="extract", base_url="https://example.com"), "model.base_url"),
        (
            own(
                provider=pb.PROVIDER_OFFLINE,
                upstream_model="extract",
                capabilities=pb.Capabilities(chat=True, tools=True),
            ),
            "model.capabilities",
        ),
        (own(provider=pb.PROVIDER_LITELLM, upstream_model="ollama/llama3"), "model.provider"),
        (own(provider=pb.PROVIDER_LITELLM, upstream_model="anthropic"), "model.upstream_model"),
        (own(base_url="https://user:pass@example.com/v1"), "model.base_url"),
        (own(base_url="https://example.com/v1?key=1"), "model.base_url"),
        (own(base_url="https://"), "model.base_url"),
        (own(base_url="https://example.com:99999/"), "model.base_url"),
        (own(base_url="https://2130706433/"), "model.base_url"),
        (own(base_url="https://127.1/"), "model.base_url"),
        (own(base_url="https://0x7f000001/"), "model.base_url"),
        (own(base_url="ftp://example.com/"), "model.base_url"),
        (own(name="no spaces please"), "model.name"),
        (own(name=""), "model.name"),
        (own(input_cost_per_million_tokens=-1.0), "model.input_cost_per_million_tokens"),
        (own(output_cost_per_million_tokens=float("inf")), "model.output_cost_per_million_tokens"),
        (own(cached_input_cost_per_million_tokens=float("nan")), "model.cached_input_cost_per_million_tokens"),
        (own(cache_write_cost_per_million_tokens=2e6), "model.cache_write_cost_per_million_tokens"),
        (own(max_input_tokens=-1), "model.max_input_tokens"),
    ],
)
async def test_a_model_that_cannot_work_is_refused_by_field(models: Installation, model: pb.Model, field: str) -> None:
    failure = await refusal(models.models().CreateModel(pb.CreateModelRequest(model=model)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in failure.fields
    assert len(await names(models)) == len(SEED)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/v1",
        "https://[::1]/v1",
        "https://10.1.2.3/v1",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/v1",
        "https://[fd00::1]/v1",
        "https://0.0.0.0/",
        "http://8.8.8.8/v1",
    ],
)
async def test_a_model_that_leads_into_private_networks_is_refused_when_it_is_made(
    models: Installation, url: str
) -> None:
    failure = await refusal(models.models().CreateModel(pb.CreateModelRequest(model=own(base_url=url))))
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED")
