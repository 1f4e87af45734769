"""Paths that are compared, and paths that cannot be."""

from __future__ import annotations

import pytest

from supervisor.egress.paths import PathError, allowed, comparable


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        (b"/", b"/"),
        (b"/repos/a%62c", b"/repos/abc"),
        (b"/a%7E~%2d", b"/a~~-"),
        (b"/a%3a%2A", b"/a%3A%2A"),
        (b"//a//b", b"//a//b"),
        (b"/a/...", b"/a/..."),
        (b"/a/.b/..c", b"/a/.b/..c"),
        (b"/a%25b", b"/a%25b"),
        (b"/a;b=c", b"/a;b=c"),
        (b"/a%c3%a4%e0%a4%85%f0%9f%99%82", b"/a%C3%A4%E0%A4%85%F0%9F%99%82"),
    ],
)
def test_unreserved_characters_are_decoded(path: bytes, plain: bytes) -> None:
    assert comparable(path) == plain


@pytest.mark.parametrize(
    "path",
    [
        b"/.", b"/..", b"/a/../b", b"/a/./b", b"/a/..", b"/a/%2e%2e/b", b"/a/.%2E/b", b"/a/%2e",
        b"/a%2fb", b"/a%2Fb", b"/a%5cb", b"/a\\b", b"/a\\..\\b", b"/..;/b", b"/a/..;x=y/b",
        b"/a/..%3b/b", b"/a%00", b"/a%0a", b"/a%7f", b"/a%", b"/a%2", b"/a%zz", b"/a%%2e",
        b"/a%252e%252e/b", b"/a%25252e/b", b"/a%252fb", b"/a%255cb", b"/\xc3\xa4", b"/a%u002e",
        b"/a%25%32%65/b", b"/a%252%65/b", b"/a%25%35%63b", b"/a/..%253b/b", b"/a%c0%ae",
        b"/a%C1%9C", b"/a%e0%80%af", b"/a%f0%80%80%af",
    ],
)  # fmt: skip
def test_what_another_reader_could_take_for_another_path(path: bytes) -> None:
    with pytest.raises(PathError):
        comparable(path)


@pytest.mark.parametrize(
    ("pattern", "path", "is_allowed"),
    [
        ("/a", b"/a", True),
        ("/a", b"/A", False),
        ("/a", b"/a/", False),
        ("/a", b"/ab", False),
        ("/a*", b"/ab", True),
        ("/a/*", b"/a", False),
        ("/a/*", b"/a/", True),
        ("/a/*", b"/a/b/c", True),
        ("*", b"/", True),
        ("/a/*/c", b"/a/b/c", False),
    ],
)
def test_patterns_are_exact_or_prefixes(pattern: str, path: bytes, is_allowed: bool) -> None:
    assert allowed(("/never", pattern), path) is is_allowed
    assert not allowed((), path)
