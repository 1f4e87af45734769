"""What a recorded call was asked for, out of its record, and what is missing there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from supervisor.call.outcome import Exited, Interrupted
from supervisor.call.types import (
    CallRequest,
    Digest,
    InputFile,
    Stream,
    StreamSummary,
    Terminal,
)
from supervisor.cli import recorded
from supervisor.client import Record, Stored
from supervisor.errors import AuditCorrupt, CallStateError, NotFound
from tests.support.records import make_finished
from tests.unit.cli.record import written

TYPED = Digest.of(b"typed")
REQUEST = CallRequest(
    request_id="r",
    profile="base",
    argv=(b"sh", b"\xff"),
    env={"A": b"\xfe"},
    files=(InputFile(path=b"d/\xff", digest=Digest.of(b"x"), mode=0o600),),
    outputs=("*.png",),
    stdin=b"typed",
    timeout_s=2.5,
)


def nothing(digest: Digest) -> bytes:
    raise NotFound("BLOB_NOT_FOUND", "there is no such blob")


def record(
    request: CallRequest = REQUEST,
    *,
    stdin: StreamSummary | None = None,
    body: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    given = body or {"request": json.loads(request.canonical())}
    made = written((0, "intent", given))
    summary = stdin or StreamSummary(stream=Stream.STDIN, digest=TYPED, stored_bytes=5)
    finished = make_finished(**{"streams": (summary,), **changes})
    return replace(made, call=replace(made.call, finished=finished))


def test_everything_is_read_as_it_was_given() -> None:
    asked = recorded.read(record(), nothing)
    assert asked == recorded.Asked(
        argv=(b"sh", b"\xff"),
        env={"A": b"\xfe"},
        cwd=b"/work",
        files={"d/\udcff": Stored(digest=Digest.of(b"x"), mode=0o600)},
        outputs=("*.png",),
        timeout_s=2.5,
    )
    asked.require("c")
    terminal = Terminal(rows=24, columns=80, term="vt100")
    given = record(replace(REQUEST, terminal=terminal))
    assert recorded.read(given, nothing) == replace(asked, terminal=terminal)


def test_a_long_request_is_a_blob_of_its_caller() -> None:
    blob = Digest.of(REQUEST.canonical())
    body = {"request_blob": {"sha256": blob.sha256, "size_bytes": blob.size_bytes}}
    asked = recorded.read(record(body=body), {blob: REQUEST.canonical()}.__getitem__)
    assert asked == recorded.read(record(), nothing)
    with pytest.raises(NotFound) as caught:
        recorded.read(record(body=body), nothing)
    assert caught.value.reason == "INPUT_NOT_RECORDED"
    assert "only its caller may read it whole" in caught.value.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stdin": StreamSummary(stream=Stream.STDIN, digest=TYPED, stored_bytes=3)},
         "is on record with 3 of 5 bytes"),
        ({"stdin": StreamSummary(stream=Stream.STDIN, digest=Digest.of(b"ty"), stored_bytes=2)},
         "as far as it was handed over: 2 of 5 bytes"),
        ({"streams": ()}, "as far as it was handed over: 0 of 5 bytes"),
        ({"request": replace(REQUEST, stdin_open=True), "outcome": Interrupted(message="died")},
         "may have had more"),
    ],
)  # fmt: skip
def test_standard_input_is_all_there_or_missing(changes: dict[str, Any], said: str) -> None:
    asked = recorded.read(record(**changes), nothing)
    assert said in asked.missing["standard input"]
    with pytest.raises(NotFound) as caught:
        asked.require("c-1")
    assert caught.value.message.startswith("call c-1 cannot be run again as it was: standard input")


def test_standard_input_that_was_kept_open_is_what_came() -> None:
    more = StreamSummary(stream=Stream.STDIN, digest=Digest.of(b"typed on"), stored_bytes=8)
    request = replace(REQUEST, stdin_open=True)
    assert not recorded.read(record(request, stdin=more, outcome=Exited(code=1)), nothing).missing


def test_what_is_redacted_is_missing_until_it_is_given() -> None:
    secret = b"[REDACTED:token:01234567]"
    file = InputFile(path=b"a-" + secret, digest=Digest.of(b"x"))
    request = replace(
        REQUEST, argv=(b"sh", b"-c " + secret), env={"TOKEN": secret, "B": b""}, files=(file,),
        working_directory=b"/work/" + secret,
    )  # fmt: skip
    asked = recorded.read(record(request), nothing)
    path = f"a-{secret.decode()}"
    assert list(asked.missing) == [
        "argv[1]", "variable TOKEN", f"file {path}", "the working directory",
    ]  # fmt: skip
    changed, names = asked.given(env={"TOKEN": "t"}, files={path: b"y"}, stdin=False)
    assert names == ["variable TOKEN", f"file {path}"]
    assert list(changed.missing) == ["argv[1]", "the working directory"]
    assert (changed.env, changed.files) == ({"TOKEN": "t", "B": b""}, {path: b"y"})


def test_a_call_that_still_runs_is_not_run_again() -> None:
    live = record()
    with pytest.raises(CallStateError) as caught:
        recorded.read(replace(live, call=replace(live.call, finished=None)), nothing)
    assert caught.value.reason == "CALL_NOT_CLOSED"


def test_a_record_without_its_beginning_is_damaged() -> None:
    with pytest.raises(AuditCorrupt):
        recorded.read(replace(record(), entries=()), nothing)
