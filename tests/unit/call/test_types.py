"""Requests, fingerprints, and bytes as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.call.types import (
    CallRequest,
    Correlation,
    Digest,
    InputFile,
    Json,
    Stream,
    StreamSummary,
    Terminal,
    as_list,
    as_map,
    canonical_json,
    text,
    untext,
)

short = st.text(max_size=8)
data = st.binary(max_size=16)
contents = st.binary(max_size=16)
files = st.builds(
    lambda path, content, mode: InputFile(
        path=path, digest=Digest.of(content), data=content, mode=mode
    ),
    data, contents, st.integers(0, 0o777),
)  # fmt: skip
FIELDS: dict[str, st.SearchStrategy[object]] = {
    "request_id": short,
    "profile": short,
    "argv": st.lists(data, max_size=4).map(tuple),
    "env": st.dictionaries(short, data, max_size=3),
    "working_directory": data,
    "files": st.lists(files, max_size=3).map(tuple),
    "outputs": st.lists(short, max_size=3).map(tuple),
    "stdin": data,
    "stdin_open": st.booleans(),
    "timeout_s": st.none() | st.floats(0, 1e6),
    "correlation": st.builds(
        Correlation, agent=short, session=short, workflow=short, traceparent=short
    ),
    "kill_on_disconnect": st.booleans(),
    "terminal": st.none()
    | st.builds(Terminal, rows=st.integers(1, 9), columns=st.integers(1, 9), term=short),
}
requests = st.builds(CallRequest, **FIELDS)  # type: ignore[arg-type]


def test_the_strategies_cover_every_field() -> None:
    assert {field.name for field in dataclasses.fields(CallRequest)} == set(FIELDS)


@given(requests)
def test_equal_requests_have_equal_fingerprints(request: CallRequest) -> None:
    copy = dataclasses.replace(request, env=dict(reversed(request.env.items())))
    assert copy.fingerprint() == request.fingerprint()


@given(requests, st.sampled_from(sorted(FIELDS)), st.data())
def test_another_value_in_any_field_gives_another_fingerprint(
    request: CallRequest, name: str, draw: st.DataObject
) -> None:
    value = draw.draw(FIELDS[name])
    other = dataclasses.replace(request, **{name: value})  # type: ignore[arg-type]
    assert (other == request) == (other.fingerprint() == request.fingerprint())


@given(requests)
def test_inline_content_and_uploaded_content_are_the_same_request(request: CallRequest) -> None:
    uploaded = tuple(dataclasses.replace(file, data=None) for file in request.files)
    assert dataclasses.replace(request, files=uploaded).fingerprint() == request.fingerprint()


@given(requests)
def test_the_canonical_form_is_ascii_json_and_holds_no_content(request: CallRequest) -> None:
    canonical = request.canonical()
    document = json.loads(canonical.decode("ascii"))
    assert canonical_json(document) == canonical
    assert document["stdin"]["sha256"] == hashlib.sha256(request.stdin).hexdigest()
    assert all("data" not in file for file in document["files"])


def test_a_request_without_a_terminal_is_what_it_was() -> None:
    """Its fingerprint, too: a repeat is one also after an upgrade of the daemon."""
    request = CallRequest(request_id="", profile="p", argv=(b"a",))
    assert b"terminal" not in request.canonical()


def test_parts_do_not_run_together() -> None:
    one = CallRequest(request_id="", profile="p", argv=(b"a", b"b"))
    assert one.fingerprint() != dataclasses.replace(one, argv=(b"a b",)).fingerprint()
    assert one.fingerprint() != dataclasses.replace(one, argv=(b"ab",)).fingerprint()


def test_an_argument_that_looks_like_base64_is_not_taken_for_bytes() -> None:
    raw, looks = b"\xff", b'{"base64": "/w=="}'
    assert text(raw) == {"base64": "/w=="}
    assert untext(text(looks)) == looks != raw


@given(st.binary())
def test_bytes_survive_json(value: bytes) -> None:
    assert untext(json.loads(json.dumps(text(value)))) == value


@given(st.text())
def test_text_stays_text(value: str) -> None:
    assert text(value.encode()) == value


@pytest.mark.parametrize("value", [None, 1, [], {}, {"base64": 1}, {"base64": "?"}, {"b": "YQ=="}])
def test_what_is_no_bytes_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        untext(value)  # type: ignore[arg-type]


def test_canonical_json_refuses_what_has_no_one_form() -> None:
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


@given(st.binary())
def test_a_digest_names_its_bytes(value: bytes) -> None:
    digest = Digest.of(value)
    assert digest == Digest(sha256=hashlib.sha256(value).hexdigest(), size_bytes=len(value))


@given(st.integers(0, 100), st.integers(0, 100))
def test_truncated_means_that_bytes_are_missing(size: int, stored: int) -> None:
    summary = StreamSummary(
        stream=Stream.STDOUT, digest=Digest(sha256="", size_bytes=size), stored_bytes=stored
    )
    assert summary.truncated == (stored < size)


@pytest.mark.parametrize(
    ("take", "good", "bad"),
    [(as_map, {"a": 1}, [1]), (as_list, [1], {"a": 1}), (as_list, [], None)],
)
def test_what_has_another_shape_is_refused(
    take: Callable[[Json], object], good: Json, bad: Json
) -> None:
    assert take(good) is good
    with pytest.raises(TypeError, match="not a"):
        take(bad)
