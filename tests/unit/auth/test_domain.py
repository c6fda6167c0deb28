"""Origins: one spelling for one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.domain import origin_of


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTPS://Example.COM:443/a/b?c#d", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:8080/", "http://example.com:8080"),
        ("example.com", "https://example.com"),
        ("example.com./", "https://example.com"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "ftp://example.com",
        "https://user@example.com",
        "https://example.com@evil.example.com",
        "https://example.com:0",
        "https://example.com:99999",
        "https://example.com:x",
        "https://exa mple.com",
        "https://example.com\\@evil.example.com",
        "https://example.com%2f.evil.example.com",
        "javascript://example.com",
    ],
)
def test_what_could_be_read_as_two_places_is_no_origin(url: str) -> None:
    assert origin_of(url) is None


@given(st.text(max_size=60))
def test_an_origin_is_its_own_origin(text: str) -> None:
    origin = origin_of(text)
    if origin is not None:
        assert origin_of(origin) == origin
        assert origin == origin.lower()
        assert origin.count("/") == 2
