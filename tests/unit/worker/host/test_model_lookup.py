"""What a host learns of a crew's models."""

from collections.abc import Awaitable, Callable
from typing import Any

from coxswain.models.v1 import model_pb2 as pb
from services.orchestrator.worker.host.model_lookup import ModelLookup

CAN = pb.Capabilities(chat=True, tools=True)


class Models:
    """Returns models and counts."""

    def __init__(self, *models: pb.Model) -> None:
        self.models = {model.name: model for model in models}
        self.asked: list[str] = []

    async def GetModel(self, request: pb.GetModelRequest) -> pb.GetModelResponse:
        self.asked.append(request.name)
        return pb.GetModelResponse(model=self.models[request.name])


class AsItself:
    """Calls as nobody in particular."""

    async def act(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()


async def test_a_crew_learns_how_long_a_prompt_may_be() -> None:
    models: Any = Models(
        pb.Model(name="a", capabilities=CAN, context_window=400_000, max_input_tokens=272_000),
        pb.Model(name="b", capabilities=CAN, context_window=8000),
        pb.Model(name="c", capabilities=CAN),
    )
    principal: Any = AsItself()
    lookup = ModelLookup(models, models, retry_seconds=0)
    found = await lookup.capabilities("abcba", "sales", principal)
    assert [(model.name, model.max_input_tokens) for model in found] == [("a", 272_000), ("b", 8000), ("c", 0)]
    assert all(model.capabilities == CAN for model in found)


async def test_what_a_model_can_do_is_asked_once_for_each_group_in_a_while() -> None:
    models: Any = Models(pb.Model(name="a", capabilities=CAN))
    principal: Any = AsItself()
    now = 0.0
    lookup = ModelLookup(models, models, retry_seconds=0, clock=lambda: now)
    for group in ("sales", "sales", "legal"):
        await lookup.capabilities(["a"], group, principal)
    assert models.asked == ["a", "a"]
    now = 31.0
    await lookup.capabilities(["a"], "sales", principal)
    assert models.asked == ["a", "a", "a"]
