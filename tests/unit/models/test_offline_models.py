"""The packaged embeddings and what is extracted with them."""

import importlib.util
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import FailedPrecondition, InvalidArgument
from services.models.domain.answer import FinishReason
from services.models.domain.conversation import Completion, ContentPart, Message, MessageRole, Sampling
from services.models.domain.model import Capabilities, Model, ModelSpec, Provider
from services.models.providers.offline.embedder import DIMENSION, PackagedEmbedder
from services.models.providers.offline.extract import Length, extract
from services.models.providers.offline.provider import OfflineProvider

TEXT = Path(__file__).parents[3] / "examples" / "brief" / "text.txt"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def embedder() -> PackagedEmbedder:
    return PackagedEmbedder()


@pytest.fixture(scope="module")
def text() -> str:
    return TEXT.read_text(encoding="utf-8")


def model(upstream: str = "extract", **fields: int) -> Model:
    spec = ModelSpec(f"offline/{upstream}", Provider.OFFLINE, capabilities=Capabilities(chat=True), **fields)  # type: ignore[arg-type]
    return Model("1", "", spec, enabled=True, created_at=NOW, updated_at=NOW)


def ask(material: str, instruction: str = "", **sampling: object) -> Completion:
    parts = (ContentPart(instruction), ContentPart(material, material=True))
    return Completion("offline/extract", (Message(MessageRole.USER, parts),), sampling=Sampling(**sampling))  # type: ignore[arg-type]


# Embeddings


def test_vectors_are_those_of_the_library_the_model_comes_from(embedder: PackagedEmbedder) -> None:
    texts = ["a lighthouse", "Der Turm, 1759!", "漢字", "long " * 3000, " ", "🙂", "x"]
    # In a process of its own: the library sets up logging when it is imported.
    program = (
        "import json, sys, wordllama; from pathlib import Path\n"
        "m = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)\n"
        "print(json.dumps(m.embed(json.load(sys.stdin), norm=True).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    vectors, tokens = embedder.embed(texts)
    assert np.allclose(vectors, np.array(json.loads(done.stdout)), atol=1e-6)
    assert tokens == embedder.count_tokens(texts)


def test_embedding_loads_neither_the_library_nor_anything_that_could_call_home() -> None:
    program = (
        "import sys; from services.models.providers.offline.embedder import PackagedEmbedder\n"
        "PackagedEmbedder().embed(['a'])\n"
        "print([m for m in ('wordllama', 'requests', 'huggingface_hub', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_vector_does_not_depend_on_what_else_is_in_the_batch(embedder: PackagedEmbedder) -> None:
    texts = [f"sentence number {n} " * (n % 7 + 1) for n in range(600)]
    together, _ = embedder.embed(texts)
    for index in (0, 255, 256, 599):
        alone, _ = embedder.embed([texts[index]])
        assert np.array_equal(alone[0], together[index])
    assert together.shape == (600, DIMENSION)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_a_text_with_nothing_in_it_is_refused_by_its_place(embedder: PackagedEmbedder) -> None:
    with pytest.raises(InvalidArgument) as failure:
        embedder.embed(["fine", ""])
    assert failure.value.violations[0].field == "texts[1]"


# Extraction


def test_a_text_of_several_thousand_words_is_covered_by_whole_sentences_of_its_own(
    embedder: PackagedEmbedder, text: str
) -> None:
    found = extract(embedder, [text], "Find the key statements.", Length(12))
    flat = " ".join(text.split())
    places = [flat.index(sentence) for sentence in found]
    assert len(set(found)) == 12
    assert places == sorted(places)
    # Every quarter of the text is heard.
    assert {place * 4 // len(flat) for place in places} == {0, 1, 2, 3}
    assert all(sentence[0].isupper() and sentence[-1] in ".!?" for sentence in found)


def test_what_the_task_asks_about_decides_what_is_taken(embedder: PackagedEmbedder, text: str) -> None:
    pilots = extract(embedder, [text], "Find what the text says about pilots and their training.", Length(5))
    fog = extract(embedder, [text], "Find what the text says about fog and sound signals.", Length(5))
    assert sum("pilot" in sentence.lower() for sentence in pilots) >= 4
    assert sum("fog" in sentence.lower() or "sound" in sentence.lower() for sentence in fog) >= 3


def test_the_words_of_the_task_alone_do_not_change_what_is_taken(embedder: PackagedEmbedder, text: str) -> None:
    plain = extract(embedder, [text], "", Length(8))
    assert extract(embedder, [text], "Pull out the key statements of the text and list them.", Length(8)) == plain


def test_near_repetitions_are_taken_once(embedder: PackagedEmbedder) -> None:
    one = "The harbour was closed to all ships for three weeks in the winter of that year."
    other = "The harbour was closed to all the ships for three weeks in winter of that year."
    rest = [
        f"Number {n} is about {topic} and has little to do with it."
        for n, topic in enumerate(
            ["cooking", "taxes", "music", "granite", "chess", "birds", "weather", "glass", "horses", "paint"]
        )
    ]
    found = extract(embedder, ["\n\n".join([one, other, *rest])], "harbour ships winter", Length(6))
    assert len({one, other} & set(found)) == 1


def test_fewer_sentences_than_asked_for_are_all_given(embedder: PackagedEmbedder) -> None:
    material = "The first one is here for you. The second one is here as well."
    assert extract(embedder, [material], "", Length(9)) == material.replace(". T", ".|T").split("|")


def test_a_limit_of_words_is_kept(embedder: PackagedEmbedder, text: str) -> None:
    found = extract(embedder, [text], "", Length(None, 100))
    assert found
    assert sum(len(sentence.split()) for sentence in found) <= 100


def test_a_text_without_whole_sentences_gives_its_lines(embedder: PackagedEmbedder) -> None:
    assert extract(embedder, ["apples and pears\n\n- plums\n\n!!!"], "", Length()) == ["apples and pears", "plums"]


# The provider


async def test_text_is_cut_at_stop_marks_and_at_the_limit_of_tokens(embedder: PackagedEmbedder, text: str) -> None:
    provider = OfflineProvider(embedder)
    whole = await provider.complete(model(), ask(text, "5 sentences"))
    assert whole.finish_reason is FinishReason.STOP
    first = whole.text.split("\n\n")[0]
    stopped = await provider.complete(model(), ask(text, "5 sentences", stop=("\n\n",)))
    assert stopped.text == first
    short = await provider.complete(model(), ask(text, "5 sentences", max_output_tokens=1))
    assert (short.text, short.finish_reason) == (first, FinishReason.LENGTH)


async def test_a_stream_says_what_the_whole_answer_says(embedder: PackagedEmbedder, text: str) -> None:
    provider = OfflineProvider(embedder)
    whole = await provider.complete(model(), ask(text, "5 sentences"))
    pieces = [delta async for delta in provider.stream(model(), ask(text, "5 sentences"))]
    assert "".join(getattr(piece, "text", "") for piece in pieces) == whole.text
    assert len(pieces) == 5 + 2


@pytest.mark.parametrize("material", ["?!", "", " \n"])
async def test_a_prompt_with_nothing_to_take_is_refused(embedder: PackagedEmbedder, material: str) -> None:
    provider = OfflineProvider(embedder)
    asked = ask(material, "Find the key statements of the text. Write them as sentences.\n\n")
    with pytest.raises(InvalidArgument) as failure:
        await provider.complete(model(), asked)
    assert failure.value.violations[0].field == "completion.messages"
    assert "give the crew an input" in failure.value.message
    with pytest.raises(InvalidArgument):
        _ = [delta async for delta in provider.stream(model(), asked)]


async def test_each_offline_model_does_only_its_own_work(embedder: PackagedEmbedder) -> None:
    provider = OfflineProvider(embedder)
    with pytest.raises(FailedPrecondition):
        await provider.complete(model("embed"), ask("The text is here for you."))
    with pytest.raises(FailedPrecondition):
        await provider.embed(model("extract"), ["a"], 0, lambda _positions, _embeddings: None)


def test_the_model_lies_in_the_installed_wheel() -> None:
    assert importlib.util.find_spec("wordllama") is not None
