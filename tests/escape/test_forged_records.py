"""Output that looks like the record does not become the record, nor change what is shown of it."""

from __future__ import annotations

import json

import pytest

from supervisor.call.types import Digest, Stream
from tests.escape.arena import tried
from tests.support.daemon import Daemon

ENTRY = json.dumps(
    {"kind": "outcome", "sequence": 99, "call": "00000000-0000-7000-8000-000000000000",
     "body": {"outcome": {"kind": "exited", "code": 0}}}
)  # fmt: skip
FORGERIES = {
    "an entry": ENTRY.encode() + b"\n",
    "another call": b"\0" * 8 + ENTRY.encode() + b"\n" + ENTRY.encode(),
    "a new line of the log": b"\r\n\r\ndenied syscall=none count=0\n",
    "a terminal's commands": b"\x1b[2J\x1b[1;1H\x1b]0;owned\x07\x1b[8m\x9b31m\x1bc",
    "titles and links": b"\x1b]8;;file:///etc/shadow\x1b\\click\x1b]8;;\x1b\\",
    "not UTF-8": bytes(range(256)),
    "right to left": "\u202efdp.exe\u2066\u200b".encode(),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=list(FORGERIES))
def test_what_was_printed_is_kept_as_it_is(daemon: Daemon, forgery: bytes) -> None:
    script = "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data); " \
             "sys.stderr.buffer.write(data)"  # fmt: skip
    call = daemon.client.run(["python3", "-c", script], profile="python", stdin=forgery)
    record = daemon.client.record(call.call_id)
    kinds = [entry.kind for entry in record.entries]
    assert kinds[0] == "intent"
    assert kinds[-1] == "outcome"
    assert kinds.count("outcome") == 1
    assert not {"denied", "lost", "truncated"} & set(kinds)
    for stream in (Stream.STDOUT, Stream.STDERR):
        assert b"".join(daemon.client.read_output(call.call_id, stream)) == forgery
    digests = {one.stream: one.digest for one in call.finished.streams}
    assert digests[Stream.STDOUT] == digests[Stream.STDERR] == Digest.of(forgery)
    assert record.entries[-1].leaf.sha256 == call.record


@pytest.mark.parametrize("view", [("audit", "show"), ("audit", "ls"), ("ps", "--all")])
def test_arguments_cannot_paint_on_a_terminal(daemon: Daemon, view: tuple[str, ...]) -> None:
    """The caller chooses argv: what the command line shows of it has no control bytes."""
    evil = b"\x1b[2J\x1b]0;owned\x07\nFinished exit 0\r\x9b31m"
    call = daemon.client.run([b"true", evil], profile="python")
    shown = daemon.command(*view, *([call.call_id] if view[-1] == "show" else []))
    assert shown.returncode == 0, shown.stderr
    assert b"true" in shown.stdout
    assert not {0x1B, 0x07, 0x0D} & set(shown.stdout)
    assert b"\nFinished exit 0" not in shown.stdout


def test_a_flood_of_terminal_commands_is_only_bytes(daemon: Daemon) -> None:
    script = "import sys\nwhile True: sys.stdout.write('\\x1b[2J\\n' * 1000 + '\\r' * 1000)"
    call = daemon.client.run(["python3", "-c", script], profile="small")
    trial = tried(daemon, call)
    assert [body["name"] for body in trial.denied] == ["output"]
    assert set(trial.stdout) == {0x1B, 0x0A, 0x0D, *b"[2J"}
