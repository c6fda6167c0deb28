"""Lists at any width: a line for each row, whole cells or an ellipsis, whole columns or none."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from coxswain.client.cli.listing import WHOLE_WIDTH, Listing, When
from coxswain.client.cli.session import add_row, table

ID = "01a20694-1f86-7c54-8594-1ba930202397"


def ago(**span: float) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) - timedelta(**span))
    return moment


def lines(width: int) -> list[str]:
    made = Listing("id", "crew", "state", "created", ">seconds", ">tokens", "acts as", "what")
    add_row(made, ID, "brief r12", "succeeded", When(ago(minutes=12)), "8.2", "1,204", "dev|alice", "a\nlong " * 30)
    add_row(made, ID, "中文名字的船员 r1", "running", When(ago(seconds=-90)), "", "0", "the group", "[bold]x[/bold]")
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(made)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_each_row_is_a_line_that_fits(width: int) -> None:
    shown = lines(width)
    assert len(shown) == 3
    assert all(Console(width=500).render_str(line, markup=False).cell_len <= width for line in shown)
    assert all(line == line.rstrip() for line in shown)
    assert ID in shown[1]
    header = shown[0].split("  ")
    assert {"id", "crew", "state"} <= {name.strip() for name in header}
    assert {name.strip() for name in header if name.strip()} <= {
        *("id", "crew", "state", "created", "seconds", "tokens", "acts as", "what")
    }


@pytest.mark.parametrize(
    ("width", "header"),
    [(60, ["name", "enabled"]), (70, ["name", "enabled", "can"]), (100, ["name", "enabled", "can", "provider"])],
)
def test_names_are_whole_before_other_columns(width: int, header: list[str]) -> None:
    name = "databricks/databricks-meta-llama-3-3-70b-instruct"
    made = Listing("name", "enabled", "can", "provider")
    add_row(made, name, "yes", "chat, tools, json_schema, images", "databricks")
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(made)
    [columns, row] = out.getvalue().splitlines()
    assert columns.split() == header
    assert row.split()[0] == name


@pytest.mark.parametrize(("width", "name", "id_shown"), [(60, "the-weekly-brief-of-t…", ID), (40, "the…", ID[:33])])
def test_an_id_is_cut_after_the_name_beside_it(width: int, name: str, id_shown: str) -> None:
    made = Listing("name", "id", ">revision", "created")
    add_row(made, "the-weekly-brief-of-the-port", ID, 12, When(ago(minutes=12)))
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(made)
    row = out.getvalue().splitlines()[1]
    assert len(row) <= width
    assert row.startswith(f"{name}  {id_shown}")


def test_a_name_that_fills_the_terminal_is_cut() -> None:
    made = Listing("name", "state")
    add_row(made, "n" * 100, "running")
    out = io.StringIO()
    Console(file=out, width=60, color_system=None).print(made)
    assert all(len(line) <= 60 and line.endswith(("state", "running")) for line in out.getvalue().splitlines())


def test_times_are_distances_unless_lines_are_whole() -> None:
    [_, first, second] = lines(200)
    assert "  12m  " in first
    assert "  in 1m  " in second
    [header, whole, _] = lines(WHOLE_WIDTH)
    assert f"{datetime.now(UTC) - timedelta(minutes=12):%Y-%m-%d}" in whole
    assert whole.endswith(" ".join(["a long"] * 30))
    assert header.endswith("what")


def test_markup_and_controls_of_cells_are_text() -> None:
    made = Listing("name", "when")
    add_row(made, "[bold]x[/bold]\x1b[2J\u202e", When(Timestamp()))
    out = io.StringIO()
    Console(file=out, width=60).print(made)
    assert out.getvalue().splitlines()[1] == "[bold]x[/bold]\ufffd[2J\ufffd"


def test_nothing_pads_the_lines_of_a_table_that_folds() -> None:
    made = table("name", "what", ">calls", "result")
    add_row(made, "a", "long " * 30, 3, "")
    add_row(made, "b", "x", 12, "two\nlines")
    out = io.StringIO()
    Console(file=out, width=WHOLE_WIDTH).print(made)
    shown = out.getvalue().splitlines()
    assert shown == [line.rstrip() for line in shown]
    assert [line.split()[-1] for line in shown] == ["result", "3", "two", "lines"]
