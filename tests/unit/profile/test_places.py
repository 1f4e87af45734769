"""What is a place, what is none, and which name another one is a slip of."""

from __future__ import annotations

import pytest

from supervisor.errors import InvalidRequest
from supervisor.profile.places import nearest, parse_place, parse_target, written

ANY = "as in api.example.com:443, 192.0.2.1:443 or [2001:db8::1]:443"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("api.example.com", "has no port", "as in api.example.com:443"),
        ("192.0.2.1", "has no port", "as in 192.0.2.1:443"),
        ("2001:db8::1", "has no port", "as in [2001:db8::1]:443"),
        ("[2001:db8::1]", "has no port", "as in [2001:db8::1]:443"),
        ("2001:db8::1:443", "has no port", "as in [2001:db8::1:443]:443"),
        ("api.example.com:", "has no port from 1 to 65535", ANY),
        ("api.example.com:0", "has no port from 1 to 65535", ANY),
        ("api.example.com:65536", "has no port from 1 to 65535", ANY),
        ("api.example.com:" + "9" * 5000, "has no port from 1 to 65535", ANY),
        ("[2001:db8::1]:99999", "has no port from 1 to 65535", ANY),
        ("api.example.com:https", "has no port from 1 to 65535", ANY),
        ("https://example.com", "is a URL", "as in example.com:443"),
        ("http://example.com/a?b=c:d", "is a URL", "as in example.com:80"),
        ("https://example.com:8443/", "is a URL", "as in example.com:8443"),
        ("https://u:p@[2001:db8::1]/", "is a URL", "as in [2001:db8::1]:443"),
        ("https://example.com:99999/", "is a URL", ANY),
        ("https://0x7f.1/", "is a URL", ANY),
        ("https:///x", "is a URL", ANY),
        ("https://[::1", "is a URL", ANY),
        ("[example.com]:443", "is not a place with its port", ANY),
        ("example.com:443/a", "is not a place with its port", ANY),
        ("0x7f.1:80", "is an address, not a name", ""),
        ("2130706433:80", "is an address, not a name", ""),
        ("a@example.com:80", "holds a user", ""),
        ("*.example.com:443", "holds a star", ""),
    ],
)
def test_what_is_no_place(text: str, message: str, hint: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        parse_place(text)
    assert caught.value.reason == "PLACE_INVALID"
    if hint:
        assert caught.value.hint == hint
        for example in hint.removeprefix("as in ").replace(" or ", ", ").split(", "):
            assert written(*parse_place(example)) == example


def test_targets() -> None:
    assert parse_target("A.Example.com") == "a.example.com"
    assert str(parse_target("192.0.2.1")) == "192.0.2.1"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("file.example.com", "files.example.com"),
        ("api.gihtub.com", "api.github.com"),
        ("api-github.com", "api.github.com"),
        ("api.github.co", "api.github.com"),
        ("a.exmaple.org", "*.example.org"),
        ("evil.example.com", None),  # all that is the same is whose domain it is
        ("api.evil.com", None),
        ("github.com", None),
        ("evil.test", None),
    ],
)
def test_a_slip_of_a_name(host: str, name: str | None) -> None:
    assert nearest(host, ["files.example.com", "api.github.com", "*.example.org"]) == name


def test_where_no_name_is_known() -> None:
    assert nearest("api.github.com", []) is None
