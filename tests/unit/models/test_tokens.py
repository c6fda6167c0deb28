"""Estimates of tokens beside what tokenizers count, for texts of many kinds."""

import importlib.util
import json
from pathlib import Path

import pytest
import tiktoken

from services.models.domain.tokens import estimate_tokens, least_tokens

ROOT = Path(__file__).parents[3]
PROSE = (ROOT / "docs" / "architecture.md").read_text()
CODE = (ROOT / "services" / "models" / "providers" / "openai" / "answers.py").read_text()
PROTO = (ROOT / "protos" / "coxswain" / "models" / "v1" / "inference.proto").read_text()
JSON = json.dumps([{"id": n, "name": f"name {n}", "value": n * 1.37, "tags": ["a", "b"]} for n in range(200)])
CSV = "\n".join(f"{n},{n * 3.14159:.3f},2026-01-{n % 28 + 1:02d},AB{n}" for n in range(300))
CHINESE = (
    "人工智能是计算机科学的一个分支，它企图了解智能的实质，并生产出一种新的能以人类智能相似的方式做出反应的智能机器。"
    * 5
)
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。" * 5
)
KOREAN = "대한민국은 동아시아의 한반도 남부에 위치한 나라이다. 수도는 서울특별시이며, 국기는 태극기이다." * 5
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему." * 5
ARABIC = "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميراً." * 5
GERMAN = "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung aller Gewalt." * 5


@pytest.fixture(params=["o200k_base", "cl100k_base"])
def tokenizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tiktoken.Encoding:
    """OpenAI's newer and older tokenizer, from the files that litellm carries."""
    litellm = importlib.util.find_spec("litellm")
    assert litellm is not None
    assert litellm.origin is not None
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"))
    return tiktoken.get_encoding(request.param)


@pytest.mark.parametrize("text", [PROSE, CODE, PROTO, JSON, CSV], ids=["prose", "code", "protos", "JSON", "CSV"])
def test_prose_code_and_tables_are_estimated_within_a_quarter(tokenizer: tiktoken.Encoding, text: str) -> None:
    counted = len(tokenizer.encode(text))
    assert 0.8 * counted <= estimate_tokens(text) <= 1.25 * counted


@pytest.mark.parametrize(
    "text",
    [CHINESE, JAPANESE, KOREAN, RUSSIAN, ARABIC, GERMAN],
    ids=["Chinese", "Japanese", "Korean", "Russian", "Arabic", "German"],
)
def test_other_languages_are_estimated_within_a_factor_of_two_or_so(tokenizer: tiktoken.Encoding, text: str) -> None:
    counted = len(tokenizer.encode(text))
    assert counted / 2.2 <= estimate_tokens(text) <= 1.5 * counted


@pytest.mark.parametrize("text", [PROSE, CODE, JSON, CSV, CHINESE, RUSSIAN, ARABIC, " " * 1000])
def test_the_least_count_is_never_more_than_what_is_counted(tokenizer: tiktoken.Encoding, text: str) -> None:
    assert least_tokens(text) <= min(estimate_tokens(text), len(tokenizer.encode(text)))
