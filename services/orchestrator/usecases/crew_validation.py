"""Whether a crew can run: by itself, and on the models it names."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from services.common.errors import FieldViolation, InvalidArgument, NotFound
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.limits import ExecutionLimits
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_source import ToolSource
from services.orchestrator.usecases.check_faults import check_faults, needs_checking
from services.orchestrator.usecases.crew_faults import crew_faults, crew_warnings, in_document_order, knowledge_memories
from services.orchestrator.usecases.model_needs import Capability, ModelNeed, model_needs
from services.orchestrator.usecases.ports import KnownMemories, KnownSources, ModelInfo, Models, UnavailableTools
from services.orchestrator.usecases.tool_faults import changed_tools, crew_pins, names_gateway_tools, tool_warnings

_MOST_COUNTED = 16
_WHAT_IT_CANNOT: Mapping[Capability, str] = {
    Capability.CHAT: "is not a chat model",
    Capability.EMBEDDINGS: "is not an embedding model",
    Capability.TOOLS: "cannot call tools",
    Capability.JSON_SCHEMA: "cannot follow a JSON schema",
}


@dataclass(frozen=True, slots=True)
class CrewReport:
    """What is to be said of a crew's document, in its order."""

    faults: list[FieldViolation]
    """What keeps it from being stored and run."""
    warnings: list[FieldViolation]
    """What would run but deserves a look."""
    tool_pins: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the tools of sources that it was checked with."""

    def refuse_faults(self) -> None:
        """Raise InvalidArgument if there is a fault, with one violation for each."""
        if self.faults:
            raise crew_invalid(self.faults)


class CrewValidation:
    """Finds all faults of a crew at once."""

    def __init__(
        self,
        models: Models,
        sources: KnownSources,
        gateway: UnavailableTools,
        memories: KnownMemories,
        *,
        default_model: str,
        max_bytes: int,
    ) -> None:
        self._models = models
        self._sources = sources
        self._gateway = gateway
        self._memories = memories
        self._default_model = default_model
        self._max_bytes = max_bytes

    async def faults(
        self,
        group_id: str,
        spec: CrewSpec,
        *,
        model: str = "",
        limits: ExecutionLimits | None = None,
        pins: Mapping[str, str] | None = None,
    ) -> list[FieldViolation]:
        """Return everything that keeps a group's crew from running now, in the order of the document.

        `model` is the request's choice of one model for everything: its faults are those of the field `model`. `limits`
        are the request's own, at the field `limits`. `pins` are the tools that the crew was stored with.

        Raises:
            Unavailable: the models service cannot be asked.
        """
        needs = model_needs(spec, default=self._default_model, override=model)
        known = await self._known(needs)
        faults = [
            *await self._own_faults(spec, await self._sources.needed(group_id, spec.tool_sources), pins),
            *_model_faults(needs, known, model),
            *_missing_keys(needs, known, model),
            *_unknown_prices(spec.limits, "spec.limits", needs, known),
            *(() if limits is None else _unknown_prices(limits, "limits", needs, known)),
        ]
        return in_document_order(dict.fromkeys(faults))

    async def changed_tools(self, group_id: str, spec: CrewSpec, pins: Mapping[str, str]) -> list[ResolvedTool]:
        """Return the tools that are not what a crew was stored with, and may be called although, each once."""
        if not spec.tool_sources:
            return []
        sources = await self._sources.needed(group_id, spec.tool_sources)
        return await asyncio.to_thread(changed_tools, spec, sources, pins)

    async def report(self, group_id: str, spec: CrewSpec, broken_rules: Sequence[FieldViolation]) -> CrewReport:
        """Return what keeps a crew of a group from being stored, and what would run but deserves a look.

        `broken_rules` are those of its message; a field that breaks one is not found fault with twice.

        Raises:
            Unavailable: the models service cannot be asked.
        """
        needs = model_needs(spec, default=self._default_model)
        known = await self._known(needs)
        # What the default cannot do may be done by the model that an execution names.
        by_default = [need for need in needs if not need.named_in]
        sources = await self._sources.needed(group_id, spec.tool_sources)
        faults = [
            *await self._own_faults(spec, sources, None),
            *_model_faults([need for need in needs if need.named_in], known, ""),
            *_unknown_prices(spec.limits, "spec.limits", needs, known),
        ]
        warnings = [
            *(await asyncio.to_thread(crew_warnings, spec) if _has_schemas(spec) else crew_warnings(spec)),
            *(
                replace(fault, description=f"{fault.description}; or name one in StartExecution")
                for fault in _model_faults(by_default, known, "")
            ),
            *_missing_credentials(needs, known),
            *_tool_calls_in_words(needs, known),
            *await asyncio.to_thread(tool_warnings, spec, sources, await self._unavailable(spec)),
            *await self._empty_knowledge(spec),
        ]
        broken = {violation.field for violation in broken_rules}
        faults = [*broken_rules, *(fault for fault in faults if fault.field not in broken)]
        return CrewReport(
            in_document_order(dict.fromkeys(faults)),
            in_document_order(dict.fromkeys(warnings)),
            await asyncio.to_thread(crew_pins, spec, sources) if sources else {},
        )

    async def _own_faults(
        self, spec: CrewSpec, sources: Mapping[str, ToolSource], pins: Mapping[str, str] | None
    ) -> list[FieldViolation]:
        read = await asyncio.to_thread(check_faults, spec) if needs_checking(spec) else []
        look = partial(crew_faults, spec, sources, self._max_bytes, pins)
        return [*(await asyncio.to_thread(look) if sources or _has_schemas(spec) else look()), *read]

    async def _unavailable(self, spec: CrewSpec) -> Mapping[str, str]:
        """Return why tools of the gateway's own that a crew names cannot be used now, by name."""
        return await self._gateway.unavailable() if names_gateway_tools(spec) else {}

    async def _empty_knowledge(self, spec: CrewSpec) -> list[FieldViolation]:
        """Return a warning for each memory among the knowledge of which the group has nothing, by whatever id."""
        named = {path: memory for path, memory in knowledge_memories(spec) if memory.memory_id}
        memories = list(dict.fromkeys(named.values()))[:_MOST_COUNTED]
        empty = await asyncio.gather(*map(self._memories.is_empty, memories))
        without = {memory for memory, is_empty in zip(memories, empty, strict=True) if is_empty}
        return [
            FieldViolation(
                f"{path}.memory_id",
                f"your group has no {memory.kind} records of this id, so that nothing can be looked up there before "
                "some are stored; ListNamespaces shows the memories that there are",
            )
            for path, memory in named.items()
            if memory in without
        ]

    async def _known(self, needs: Iterable[ModelNeed]) -> dict[str, ModelInfo | str]:
        names = list(dict.fromkeys(need.model for need in needs))
        answers = await asyncio.gather(*map(self._find, names))
        return dict(zip(names, answers, strict=True))

    async def _find(self, name: str) -> ModelInfo | str:
        try:
            return await self._models.find(name)
        except (NotFound, InvalidArgument) as error:
            return error.message


def _has_schemas(spec: CrewSpec) -> bool:
    """Return whether a crew has schemas: their patterns may take seconds to compile."""
    return any(task.output_schema for task in spec.tasks)


def crew_invalid(faults: Sequence[FieldViolation]) -> InvalidArgument:
    """Return the refusal of a crew that cannot run, one field violation for each fault."""
    first = "; ".join(f"{fault.field}: {fault.description}" for fault in faults[:3])
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return InvalidArgument(
        f"the crew cannot run: {first}{more}",
        reason="CREW_INVALID",
        violations=faults,
    )


def _model_faults(
    needs: Iterable[ModelNeed], known: Mapping[str, ModelInfo | str], override: str
) -> Iterator[FieldViolation]:
    for need in needs:
        fault = _fault(need, known[need.model], override)
        if fault is not None:
            yield fault


def _missing_keys(
    needs: Iterable[ModelNeed], known: Mapping[str, ModelInfo | str], override: str
) -> Iterator[FieldViolation]:
    """Yield what no call can be made without.

    Other credentials may be the caller's own, who need not be whom the execution acts as.
    """
    by_key = {name: model for name, model in known.items() if not isinstance(model, str) and model.secret_name}
    return _missing_credentials([need for need in needs if need.model in by_key], by_key, override)


def _missing_credentials(
    needs: Iterable[ModelNeed], known: Mapping[str, ModelInfo | str], override: str = ""
) -> Iterator[FieldViolation]:
    warned_of = set()
    for need in needs:
        model = known[need.model]
        if need.model not in warned_of and not isinstance(model, str) and model.lacks_credential:
            warned_of.add(need.model)
            secret = f', named "{model.secret_name}"' if model.secret_name else ""
            yield FieldViolation(
                "model" if need.model == override else need.named_in or need.field,
                f'there is no credential to call the model "{need.model}" with; an admin stores a key for your group '
                f"with PutSecret{secret} and with the origin of the model's address, as in https://api.openai.com "
                "(ExplainCredential says what was looked for), or choose another model",
            )


def _tool_calls_in_words(needs: Iterable[ModelNeed], known: Mapping[str, ModelInfo | str]) -> Iterator[FieldViolation]:
    for need in needs:
        model = known[need.model]
        if not need.in_words or isinstance(model, str):
            continue
        if model.writes_freely and need.capability not in model.capabilities:
            yield FieldViolation(
                need.field,
                f'model "{need.model}" cannot call tools by itself and is asked to do so in words, which takes more '
                "tokens and a model that keeps to a form; choose one that can, or have such models refused by "
                "tool_calling NATIVE",
            )


def _unknown_prices(
    limits: ExecutionLimits, path: str, needs: Iterable[ModelNeed], known: Mapping[str, ModelInfo | str]
) -> Iterator[FieldViolation]:
    if limits.max_cost is None:
        return
    called = dict.fromkeys(need.model for need in needs if need.capability is not Capability.EMBEDDINGS)
    for name in called:
        model = known[name]
        if not isinstance(model, str) and not model.priced:
            yield FieldViolation(
                f"{path}.max_cost",
                f'the price of the model "{name}" is not known; set input_cost_per_million_tokens and '
                "output_cost_per_million_tokens of the model, or limit tokens or calls instead",
            )


def _fault(need: ModelNeed, model: ModelInfo | str, override: str) -> FieldViolation | None:
    names_it = "model" if need.model == override else need.named_in
    default = "" if names_it else ", the default of this installation,"
    if isinstance(model, str):
        return FieldViolation(names_it or need.field, model)
    if not model.enabled:
        return FieldViolation(
            names_it or need.field,
            f'model "{need.model}"{default} is disabled for your group; choose another or have an admin enable it',
        )
    if need.capability in model.capabilities or (need.in_words and model.writes_freely):
        return None
    cannot = f'model "{need.model}"{default} {_WHAT_IT_CANNOT[need.capability]}'
    if names_it == "model":
        return FieldViolation("model", f"{cannot}, which {need.field} needs; choose another model")
    return FieldViolation(need.field, f"{cannot}; choose a model that can" + (f" in {names_it}" if names_it else ""))
