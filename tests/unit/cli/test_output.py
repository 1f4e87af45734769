"""Tables are safe, JSON is exact, errors go to standard error."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import click
import pytest

from supervisor.call import events, outcome
from supervisor.call.types import Stream
from supervisor.cli import output
from supervisor.errors import CapacityError


def test_table_is_plain_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("A", "LONG"), [("1", "\x1b[2J"), ("222", "\u202e")])
    assert capsys.readouterr().out == "A    LONG\n1    \\e[2J\n222  \\u202e\n"


def test_table_is_safe_on_a_terminal_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.table(("A",), [("[red]x[/red] :smile: \x1b[2J",)])
    shown = capsys.readouterr().out
    assert "[red]x[/red] :smile: \\e[2J" in shown
    assert "\x1b[2J" not in shown


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_an_id_stays_in_one_piece_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    call, rest = "01a21ac1-6ddc-75bf-b114-b7be8f1a120b", ["x" * 20] * 6
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    output.table(("CALL", "B", "C", "D", "E", "F", "G"), [(call, *rest)])
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith(call) for line in shown) == (width >= 80)
    # Nothing is cut, however narrow it is.
    assert "".join(line[:37].split(" ")[0] for line in shown[1:]) == call
    assert "".join(shown).count("x") == sum(map(len, rest))


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("A",), [], empty="nothing")
    assert tuple(capsys.readouterr()) == ("", "stockade: nothing\n")


def test_a_note_is_one_line_unless_its_lines_are_ours(capsys: pytest.CaptureFixture[str]) -> None:
    output.note("a\nb")
    output.note("a\nb", lines=True)
    assert capsys.readouterr().err == "stockade: a\\nb\nstockade: a\nb\n"


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    error = CapacityError(
        "CALLS_LIMIT", "full\x1b", hint="wait\u202e", metadata={"a": "b"}, retry_after_s=2
    )
    output.report(error, as_json=False)
    assert capsys.readouterr() == (
        "",
        "stockade: full\\e [CALLS_LIMIT]\n  hint: wait\\u202e\n  try again in 2 s\n",
    )
    output.report(error, as_json=True)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "\x1b" not in err
    assert json.loads(err) == {
        "error": {
            "reason": "CALLS_LIMIT",
            "message": "full\x1b",
            "hint": "wait\u202e",
            "metadata": {"a": "b"},
            "retry_after_s": 2,
        }
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"text", "text"),
        (b"\xff", {"base64": "/w=="}),
        (Stream.STDIN, "stdin"),
        ((1, None, True), [1, None, True]),
        ({"a": b"b"}, {"a": "b"}),
        (outcome.Exited(code=3), {"kind": "exited", "code": 3}),
        (
            events.Timeline(accepted_ns=1),
            {
                "accepted": "1970-01-01T00:00:00.000000001Z",
                **dict.fromkeys(("preparing", "armed", "started", "ended", "destroyed")),
            },
        ),
    ],
)
def test_to_json(value: object, expected: object) -> None:
    assert output.to_json(value) == expected


def test_a_document_is_text_whatever_a_file_is_called(capsysbinary: Any) -> None:
    output.document({"a": os.fsdecode(b"\xff"), "b": "é"})
    said = capsysbinary.readouterr().out.decode()
    assert json.loads(said) == {"a": "\udcff", "b": "é"}


@pytest.mark.parametrize(
    ("event", "name", "fields"),
    [
        (
            events.Output(stream=Stream.STDERR, data=b"\x00", offset=5),
            "output",
            {"stream": "stderr", "data": "AA==", "offset": 5, "truncated": False, "covered": 0},
        ),
        (events.KeepAlive(), "keep_alive", {}),
        (events.Started(preparation_s=0.5), "started", {"preparation_s": 0.5}),
    ],
)
def test_events(event: events.Event, name: str, fields: dict[str, object]) -> None:
    value = events.CallEvent(call_id="c", sequence=3, time_ns=10**9, event=event)
    head = {"call_id": "c", "sequence": 3, "time": "1970-01-01T00:00:01.000000000Z"}
    assert output.to_json(value) == {**head, "event": name, **fields}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.0000123, "12.3 µs"),
        (0.0123, "12.3 ms"),
        (1.5, "1.5 s"),
        (5000, "5000 s"),
        (0.9999, "1000 ms"),
        (999.9, "1000 s"),
        (0.5, "500 ms"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    assert output.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3, "0s"), (59.9, "59s"), (65, "1m05s"), (7300, "2h01m"), (200_000, "2d")],
)
def test_age(seconds: float, shown: str) -> None:
    assert output.age(seconds) == shown


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 52, "4096.0 TiB"),
    ],
)
def test_size(size_bytes: int, shown: str) -> None:
    assert output.size(size_bytes) == shown


def test_moment() -> None:
    assert output.moment(0) == output.timestamp(0) == ""
    assert output.moment(1_700_000_000_000_000_000) == "2023-11-14 22:13:20Z"


def test_count() -> None:
    assert [output.count(n, "call") for n in (0, 1, 2)] == ["0 calls", "1 call", "2 calls"]
    assert [output.count(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


def test_columns_are_those_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert output.columns() is None
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert output.columns() == 77


def test_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    output.paragraph("advice", "word " * 20 + "\x1b[2J", 44)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("  advice    word ")
    assert rest
    assert all(row.startswith(" " * 12 + "w") or "\\e[2J" in row for row in rest)
    assert max(map(len, (first, *rest))) <= 44


def test_what_is_confirmed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output.confirm("all goes", yes=True)
    monkeypatch.setattr("supervisor.cli.standard.asks", lambda: False)
    with pytest.raises(click.UsageError, match="--yes"):
        output.confirm("all goes", yes=False)
    monkeypatch.setattr("supervisor.cli.standard.asks", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\ny\n"))
    with pytest.raises(click.exceptions.Exit) as caught:
        output.confirm("all\x1b[2J goes", yes=False)
    assert caught.value.exit_code == 1
    output.confirm("all goes", yes=False)
    said = capsys.readouterr()
    assert "stockade: all\\e[2J goes. Go on?" in said.err
    assert "\x1b" not in said.err and said.out == ""
