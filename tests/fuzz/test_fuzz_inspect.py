"""TLS and HTTP on their way through the broker, from whatever bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import (
    runner,
    target_handshake,
    target_heads,
    target_http,
    target_responses,
    target_tls,
)
from tests.support.rounds import rounds
from tests.unit.egress.battery import HOST

TARGETS = {
    "heads": target_heads.TARGET,
    "http": target_http.TARGET,
    "responses": target_responses.TARGET,
    "tls": target_tls.TARGET,
    "handshake": target_handshake.TARGET,
}


@pytest.mark.parametrize("name", TARGETS)
def test_random_and_mutated_messages(name: str) -> None:
    result = runner.run(TARGETS[name], rounds(3000), seed=rounds(1))
    assert result.failure is None, result.failure


_NAMES = st.sampled_from(
    ["Content-Length", "Transfer-Encoding", "Host", "Connection", "Upgrade", "Expect", "TE", "X"]
)
_VALUES = st.sampled_from(
    ["", "0", "1", "3", "chunked", HOST, f"{HOST}:80", "evil.example.com", "close", "websocket"]
) | st.text(st.characters(max_codepoint=255), max_size=5)


@given(
    st.integers(0, 31),
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "CONNECT"]),
    st.sampled_from(["/a", "/b/c", "/b/../a", "*", "http://evil.example.com/", "//a"]),
    st.lists(st.tuples(_NAMES, st.sampled_from([": ", ":", " : "]), _VALUES), max_size=5),
    st.sampled_from(["", "a", "abc", "1\r\na\r\n0\r\n\r\n", "0\r\n\r\nGET /smuggled HTTP/1.1\r\n"]),
)
def test_any_request(
    choice: int, method: str, target: str, headers: list[tuple[str, str, str]], body: str
) -> None:
    lines = [f"{method} {target} HTTP/1.1", *map("".join, headers), "", body]
    target_http.check(bytes((choice,)) + "\r\n".join(lines).encode("latin-1"))
    lines.insert(1, f"Host: {HOST}")
    target_http.check(bytes((choice,)) + "\r\n".join(lines).encode("latin-1"))
