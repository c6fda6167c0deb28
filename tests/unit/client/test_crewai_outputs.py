"""Output classes become JSON schemas: those that pydantic itself makes of them."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coxswain.client import load_crewai_project
from coxswain.client.crewai_project import ImportedCrew
from tests.support.crewai_projects import CODE, DRAFT, line_of, write_project

HEAD = (
    "from datetime import date, datetime\nfrom enum import Enum, IntEnum\nfrom typing import *\n"
    "from uuid import UUID\nfrom pydantic import *\n\n\n"
)


def imported(directory: Path, classes: str, output: str = "output_pydantic=Note", **more: Any) -> ImportedCrew:
    code = CODE.replace("@CrewBase", f"{classes}\n\n@CrewBase").replace(DRAFT, f"{DRAFT[:-1]},\n            {output})")
    return load_crewai_project(write_project(directory, code=code, **more))


def schema(crew: ImportedCrew) -> Any:
    assert crew.spec.tasks[0].HasField("output_schema"), crew.notes
    return MessageToDict(crew.spec.tasks[0].output_schema)


def comparable(given: Any) -> Any:
    """A schema without what pydantic adds for people, and with whole numbers as the wire has them."""
    if isinstance(given, dict):
        # `title` may be a property's name too: only its texts are titles.
        kept = {key: comparable(one) for key, one in given.items() if not (key == "title" and isinstance(one, str))}
        # typing takes Union[int, str] for a Union[str, int] that it has seen before.
        return {key: sorted(one, key=repr) if key == "anyOf" else one for key, one in sorted(kept.items())}
    if isinstance(given, list):
        return [comparable(one) for one in given]
    return float(given) if isinstance(given, int) and not isinstance(given, bool) else given


def from_pydantic(classes: str, name: str = "Note") -> Any:
    names: dict[str, Any] = {"__name__": "sample"}
    exec(HEAD + classes, names)
    model = names[name]
    model.model_rebuild(_types_namespace=names)
    return model.model_json_schema()


@pytest.mark.parametrize("output", ["output_pydantic=Note", "output_json=Note"])
def test_a_class_in_the_same_file(tmp_path: Path, output: str) -> None:
    crew = imported(
        tmp_path, "class Note(BaseModel):\n    title: str\n    words: int\n    tags: List[str] = []\n", output
    )
    assert crew.notes == ()
    found = schema(crew)
    assert found["type"] == "object"
    assert found["required"] == ["title", "words"]
    assert found["properties"] == {
        "title": {"type": "string"},
        "words": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
    }


@pytest.mark.parametrize(
    ("importing", "name"),
    [
        ("from .models import Note", "Note"),
        ("from notes.models import Note", "Note"),
        ("from src.notes.models import Note", "Note"),
        ("from notes.models import Note as Result", "Result"),
        ("from notes import models", "models.Note"),
        ("from . import models", "models.Note"),
        ("import notes.models", "notes.models.Note"),
        ("import notes.models as kinds", "kinds.Note"),
        ("from notes.kinds import Note", "Note"),
        ("from notes.kinds.inner import Note", "Note"),
        ("from notes.kinds import *", "Note"),
        ("from .everything import *", "Note"),
        ("from notes.everything import Note as Result", "Result"),
        ("from notes.drafts import *\nfrom notes.models import *", "Note"),
        ("from notes.listed import *\nfrom notes.drafts import *", "_Note"),
    ],
)
def test_a_class_in_a_file_of_the_project(tmp_path: Path, importing: str, name: str) -> None:
    models = "from pydantic import BaseModel\n\n\nclass Note(BaseModel):\n    title: str\n"
    drafts = models.replace("title", "draft")
    files = {
        "src/notes/models.py": models,
        "src/notes/__init__.py": "",
        "src/notes/kinds/__init__.py": "from .inner import Note\n",
        "src/notes/kinds/inner.py": models,
        "src/notes/drafts.py": drafts + drafts.replace("Note", "_Note"),
        "src/notes/listed.py": models.replace("Note", "_Note") + '\n\n__all__ = ["_Note"]\n',
        # Into a circle last, which is looked into first.
        "src/notes/everything.py": "from .kinds import *\nfrom os import *\nfrom .everything import *\n",
    }
    crew = imported(tmp_path, importing + "\n", f"output_pydantic={name}", files=files)
    assert schema(crew)["required"] == ["title"]
    assert crew.notes == ()


def test_a_class_that_is_not_in_the_project_is_a_note(tmp_path: Path) -> None:
    crew = imported(tmp_path, "from elsewhere.models import Note\n")
    [note] = crew.notes
    assert (note.field, note.file, note.line) == (
        "tasks.draft.output_pydantic",
        "src/notes/crew.py",
        line_of(tmp_path, "output_pydantic="),
    )
    assert "elsewhere.models" in note.description
    assert not crew.spec.tasks[0].HasField("output_schema")


def test_a_file_of_the_project_that_leads_out_of_it_is_not_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("from pydantic import BaseModel\n\n\nclass Note(BaseModel):\n    title: str\n")
    project = write_project(tmp_path / "project")
    (project / "src/notes/models.py").symlink_to(outside)
    [note] = imported(project, "from .models import Note\n").notes
    assert "not in the project" in note.description


CLASSES = {
    "plain": (
        "class Note(BaseModel):\n    a: str\n    b: int = 3\n    c: float\n    d: bool = False\n    e: Any = None\n"
    ),
    "described": (
        'class Note(BaseModel):\n    """A note."""\n    a: str = Field(..., description="The a", min_length=2)\n'
    ),
    "numbers": (
        "class Note(BaseModel):\n    a: int = Field(ge=1, lt=10)\n    b: float = Field(0.5, gt=0, multiple_of=0.5)\n"
    ),
    "optional": (
        "class Note(BaseModel):\n    a: Optional[str] = None\n    b: int | None\n    c: Union[int, str, None] = None\n"
    ),
    "lists": (
        "class Note(BaseModel):\n    a: List[int]\n    b: list[list[str]]\n    c: Dict[str, float]\n    d: Set[str]\n"
    ),
    "tuples": "class Note(BaseModel):\n    a: Tuple[int, str]\n    b: tuple[int, ...]\n",
    "literal": 'class Note(BaseModel):\n    a: Literal["x", "y"] = "x"\n    b: Literal[1]\n',
    "enum": (
        'class Kind(str, Enum):\n    A = "a"\n    B = "b"\n\n'
        "\nclass Note(BaseModel):\n    kind: Kind\n    other: Kind = Kind.B\n"
    ),
    "whole enum": ("class Kind(IntEnum):\n    A = 1\n    B = 2\n\n\nclass Note(BaseModel):\n    kind: List[Kind]\n"),
    "nested": (
        "class Part(BaseModel):\n    a: str\n\n"
        "\nclass Note(BaseModel):\n    one: Part\n    more: Optional[List[Part]] = None\n"
    ),
    "inherited": (
        "class Base(BaseModel):\n    a: str\n    b: int\n\n\nclass Note(Base):\n    b: float = 1.5\n    c: bool\n"
    ),
    "later": 'class Note(BaseModel):\n    a: "Part"\n\n\nclass Part(BaseModel):\n    x: int\n',
    "times": "class Note(BaseModel):\n    a: date\n    b: datetime\n    c: UUID\n",
    "alias": 'class Note(BaseModel):\n    a: str = Field(alias="first")\n',
    "annotated": 'class Note(BaseModel):\n    a: Annotated[str, Field(description="x", max_length=5)]\n',
    "strict": (
        'class Note(BaseModel):\n    model_config = ConfigDict(extra="forbid")\n'
        "    a: str\n    _b: int = 1\n    C: ClassVar[int] = 3\n"
    ),
    "named type": "Words = List[str]\n\n\nclass Note(BaseModel):\n    a: Words\n",
    "long lists": "class Note(BaseModel):\n    a: List[str] = Field(min_length=1, max_length=3)\n",
    "deep": (
        "class C(BaseModel):\n    x: int\n\n\nclass B(BaseModel):\n"
        "    c: C\n\n\nclass Note(BaseModel):\n    b: List[B]\n"
    ),
    "examples": 'class Note(BaseModel):\n    a: str = Field(examples=["x"], pattern="^x")\n',
    "lists with a class of their own": (
        "class Line(BaseModel):\n    text: str\n\n\nclass Lines(RootModel[List[Line]]):\n    pass\n\n\n"
        "class Numbers(RootModel):\n    root: Dict[str, int]\n\n\n"
        "class Note(BaseModel):\n    lines: Lines\n    numbers: Optional[Numbers] = None\n"
    ),
}


@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES.keys())
def test_a_class_has_the_schema_that_pydantic_makes(tmp_path: Path, classes: str) -> None:
    crew = imported(tmp_path, HEAD + classes)
    assert crew.notes == ()
    assert comparable(schema(crew)) == comparable(from_pydantic(classes))


def test_a_class_that_holds_itself(tmp_path: Path) -> None:
    found = schema(imported(tmp_path, HEAD + 'class Note(BaseModel):\n    a: str\n    parts: List["Note"] = []\n'))
    assert found["type"] == "object"
    assert found["properties"]["parts"]["items"] == {"$ref": "#/$defs/Note"}
    assert found["$defs"]["Note"]["required"] == ["a"]


@pytest.mark.parametrize(
    "classes",
    [
        "class Note(Other):\n    a: str\n",
        "class Note:\n    a: str\n",
        "class Note(BaseModel):\n    a: Mystery\n",
        "class Note(BaseModel):\n    a: Callable[[int], str]\n",
        "class Note(BaseModel):\n    a: (1 + 2)\n",
        'class Note(BaseModel):\n    a: "List["\n',
        "class Note(BaseModel, Generic[T]):\n    a: T\n",
        "class Note(RootModel[List[str]]):\n    pass\n",
        "class A(B):\n    a: str\n\n\nclass B(A):\n    b: str\n\n\nclass Note(A):\n    c: str\n",
        "Note = create_model('Note')\n",
        "Note = Note\n",
        f"class Note(BaseModel):\n    a: {'List[' * 60}int{']' * 60}\n",
        "class A(BaseModel):\n    a: List[int][str]\n\n\nclass Note(A):\n    x: Optional[()]\n",
    ],
)
def test_a_class_without_a_schema_is_one_note_and_the_crew_is_stored(tmp_path: Path, classes: str) -> None:
    crew = imported(tmp_path, HEAD + classes)
    [note] = crew.notes
    assert (note.field, note.line) == ("tasks.draft.output_pydantic", line_of(tmp_path, "output_pydantic="))
    assert "output_schema" in note.description


def test_checks_of_a_class_are_noted_with_their_line(tmp_path: Path) -> None:
    check = "    @field_validator('a')\n    def good(cls, value):\n        return value\n"
    crew = imported(tmp_path, f"{HEAD}class Note(BaseModel):\n    a: str\n\n{check}")
    [note] = crew.notes
    assert note.line == line_of(tmp_path, "def good")
    assert "guardrail" in note.description


_TYPES = st.recursive(
    st.sampled_from(["str", "int", "float", "bool", "Part", "Kind", 'Literal["p", "q"]', "date"]),
    lambda inner: st.one_of(
        inner.map("List[{}]".format),
        inner.map("Optional[{}]".format),
        inner.map("Dict[str, {}]".format),
        st.tuples(inner, inner).map("Union[{0[0]}, {0[1]}]".format),
    ),
    max_leaves=4,
)
_PARTS = (
    'class Kind(Enum):\n    A = "a"\n    B = "b"\n\n\n'
    "class Part(BaseModel):\n    x: int\n    y: Optional[Kind] = None\n\n\n"
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(types=st.lists(_TYPES, min_size=1, max_size=4), optional=st.integers(0, 4))
def test_any_types_have_the_schema_that_pydantic_makes(tmp_path: Path, types: list[str], optional: int) -> None:
    fields = [
        f"    f{index}: Optional[{one}] = None\n" if index >= optional else f"    f{index}: {one}\n"
        for index, one in enumerate(types)
    ]
    classes = f"{_PARTS}class Note(BaseModel):\n{''.join(fields)}"
    crew = imported(tmp_path, HEAD + classes)
    assert crew.notes == ()
    assert comparable(schema(crew)) == comparable(from_pydantic(classes))
