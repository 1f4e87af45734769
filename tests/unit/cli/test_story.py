"""A record as a story: everything that the record must name, and nothing that bites."""

from __future__ import annotations

import pytest

from supervisor.cli import story
from supervisor.client import Record, wire
from supervisor.v1 import types_pb2
from tests.unit.cli import record
from tests.unit.client import fake_daemon as fake


def told(capsys: pytest.CaptureFixture[str], made: Record) -> str:
    story.tell(made)
    return capsys.readouterr().out


def test_everything_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(capsys, record.record())
    for what in (
        "python3 -c 'print(6*7)'",
        "owner (unix, uid 0)",
        f"python sha256:{fake.DIGEST} enforce",
        "writer",
        "armed      +10 ms",
        "unshare(0x10000000) x3",
        "stdout 2.0 KiB in 2 pieces",
        "stdout  3 B   3 B        " + fake.summary(b"42\n").digest.sha256,
        "12 ms user",
        "4.0 MiB at most",
        "the call exited with 0",
        "sha256:" + "cd" * 32,
        "kernel 6.1",
        "chart.png",
        "not taken: NOT_REGULAR",
        "ann sent signal 15: enough",
        "A=1",
        "in.csv 3 B sha256:ee",
    ):
        assert what in shown, what


def test_hostile_text_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\u202e\n"
    shown = told(capsys, record.record(evil=evil))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\e[2J\\u202e\\n" in shown


def test_a_live_call_has_no_end_yet(capsys: pytest.CaptureFixture[str]) -> None:
    made = record.record(live=True)
    shown = told(capsys, made)
    assert shown.splitlines()[0] == "call call-1: running"
    assert "phases" not in shown
    assert "SHA-256" not in shown


def test_a_call_that_never_ran(capsys: pytest.CaptureFixture[str]) -> None:
    failed = fake.finish(failed=types_pb2.Failed(reason="OCI_CREATE_FAILED", message="no"))
    failed.timeline.ClearField("started")
    made = Record(call=wire.call(fake.call(finished=failed)), entries=())
    shown = told(capsys, made)
    assert "did not run: no [OCI_CREATE_FAILED]" in shown
    assert "started" not in shown


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("started", {"preparation_s": 0.02}, "20 ms"),
        ("truncated", {"stream": "stdout", "offset": 5, "why": "cap"}, "from byte 5"),
        ("lost", {"what": "denial", "count": 2, "reason": "full"}, "lost 2 of denial: full"),
        ("outcome", {"outcome": {"kind": "exited", "code": 3}}, "exited (code 3)"),
        (
            "denied",
            {"wall": "limit", "name": "memory", "used": 9, "allowed": 8},
            "memory: 9 used, 8 allowed x1",
        ),
        ("spell", {"a": 1, "b": "c"}, "a=1, b=c"),
    ],
)
def test_happening(kind: str, body: dict[str, object], shown: str) -> None:
    assert shown in story.happening(kind, body)
