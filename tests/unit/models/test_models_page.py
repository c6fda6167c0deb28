"""docs/models.md has every setting of the models service."""

from tools.write_settings_table import PAGE, page_with_table


def test_the_page_has_the_settings_with_their_defaults_and_meaning() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page_with_table(page) == page, "run `make settings-table`"
