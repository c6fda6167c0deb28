"""Whether callers have the credentials of models: asked once each."""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from coxswain.models.v1 import model_pb2 as pb
from services.common.grpc.call import Call, enter_call
from services.common.identity.credentials import CredentialAvailability, Destination
from services.common.identity.principal import CredentialKind, Principal, Role
from services.common.resource_key import ResourceKey
from services.models.domain.model import Deployment, Model, ModelSpec, Provider
from services.models.servicers.models import ModelServicer
from services.models.usecases.credential_checks import CredentialChecks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AVAILABLE = CredentialAvailability.AVAILABLE


class Direct:
    """Calls go to the model's own address; without one they stay here."""

    def destination(self, model: Model) -> Destination | None:
        address = model.spec.base_url
        return Destination(address, model.spec.provider.value) if address else None


class Auth:
    """Answers what `answer` returns for an origin, and counts."""

    def __init__(self, answer: Callable[[str], CredentialAvailability]) -> None:
        self.answer = answer
        self.asked: list[list[tuple[str, str]]] = []

    async def availability(
        self, destinations: Collection[Destination], _seconds: float
    ) -> dict[Destination, CredentialAvailability]:
        self.asked.append(sorted((each.origin, each.provider) for each in destinations))
        return {each: self.answer(each.origin) for each in destinations}


def model(number: int, address: str, provider: Provider = Provider.OPENAI) -> Model:
    spec = ModelSpec(f"a/{number}", provider, base_url=address)
    return Model(str(number), "sales", spec, enabled=True, created_at=NOW, updated_at=NOW)


def checks(auth: Auth) -> CredentialChecks:
    providers: Any = dict.fromkeys(Provider, Direct())
    return CredentialChecks(auth, providers)


async def test_auth_is_asked_once_about_each_destination_however_many_models_it_has() -> None:
    auth = Auth(lambda origin: CredentialAvailability.MISSING if "b" in origin else AVAILABLE)
    models = [model(number, "https://ab"[: 9 + number % 2]) for number in range(100)]
    models.append(model(100, "https://a", Provider.DATABRICKS))
    found = await checks(auth).check([*models, model(101, "")])
    assert auth.asked == [[("https://a", "databricks"), ("https://a", "openai"), ("https://ab", "openai")]]
    assert [found[str(number)].name for number in (0, 1, 100, 101)] == [
        "AVAILABLE",
        "MISSING",
        "AVAILABLE",
        "NOT_NEEDED",
    ]


async def test_of_several_deployments_one_with_a_credential_is_enough() -> None:
    auth = Auth(lambda origin: AVAILABLE if "mine" in origin else CredentialAvailability.MISSING)
    spread = model(1, "https://none")
    places = [(Deployment("https://none"), Deployment("https://mine")), (Deployment("https://none"), Deployment())]
    models = [replace(spread, id=str(n), spec=replace(spread.spec, deployments=d)) for n, d in enumerate(places)]
    found = await checks(auth).check(models)
    assert [found["0"].name, found["1"].name] == ["AVAILABLE", "MISSING"]
    assert auth.asked == [[("https://mine", "openai"), ("https://none", "openai")]]


@pytest.mark.parametrize(("service", "told"), [("", "AVAILABLE"), ("orchestrator", "UNSPECIFIED")])
async def test_other_services_get_models_without_a_question_to_auth(service: str, told: str) -> None:
    class Models:
        async def get(self, _principal: Principal, _key: ResourceKey) -> Model:
            return model(1, "https://a")

        def expect_calls(self, _model: Model) -> None:
            pass

    principal = Principal(
        subject="dev|ann",
        group_id="sales",
        role=Role.OPERATOR,
        platform_admin=False,
        credential_kind=CredentialKind.DEV,
        session_id="",
        execution_id="",
        expires_at=NOW,
    )
    enter_call(Call(request_id="r", method="m", principal=principal, service=service))
    auth = Auth(lambda _origin: AVAILABLE)
    models: Any = Models()
    context: Any = None
    found = await ModelServicer(models, checks(auth)).GetModel(pb.GetModelRequest(id="1"), context)
    assert pb.CredentialAvailability.Name(found.model.credential) == f"CREDENTIAL_AVAILABILITY_{told}"
    assert len(auth.asked) == (told == "AVAILABLE")


async def test_nobody_is_asked_for_models_that_need_nothing() -> None:
    auth = Auth(lambda _origin: AVAILABLE)
    assert await checks(auth).check([]) == {}
    assert await checks(auth).check([model(1, "")]) == {"1": CredentialAvailability.NOT_NEEDED}
    assert auth.asked == []
