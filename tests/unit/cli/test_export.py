"""`stockade export`: how sinks do, and what is done about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli import export
from supervisor.v1 import export_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon

NOW_S = fake.START_NS / 1e9 + 125
HOSTILE = "no\x1b[2J route\nsiem  all is well"
GOOD = """\
callers: [{name: me, uid: 0, profiles: [], exports: manage}]
sinks:
  files: {type: file, path: /var/log/stockade.json}
  out: {type: stdout}
"""


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_now_s", lambda: NOW_S)


def playing(daemon: FakeDaemon, *sinks: export_pb2.Sink) -> None:
    daemon.play("ListSinks", lambda _: export_pb2.ListSinksResponse(sinks=sinks))


def failing() -> export_pb2.Sink:
    sink = fake.sink(
        name="lake", kind="s3", status=export_pb2.SINK_STATUS_FAILING, why=HOSTILE,
        lag_entries=12, lag_bytes=2048, retries=3, dead_letters=1, replaying_from=7,
    )  # fmt: skip
    sink.failing_since.FromSeconds(int(NOW_S) - 61)
    sink.lag.FromSeconds(3700)
    sink.acknowledged = 0
    sink.ClearField("acknowledged_at")
    return sink


def test_status_of_sinks_that_are_well(daemon: FakeDaemon, stockade: Stockade) -> None:
    playing(daemon, fake.sink())
    result = stockade("export", "status")
    header, row = result.stdout.splitlines()
    assert tuple(header.split("  ")[0].split()) == ("SINK",)
    assert [cell for cell in header.split("  ") if cell][-1].strip() == "WHY"
    assert row.split() == ["siem", "syslog", "ocsf", "running", "0", "0", "B", "2m05s"]
    assert result.exit_code == 0


def test_status_of_one_that_fails(daemon: FakeDaemon, stockade: Stockade) -> None:
    playing(daemon, failing(), fake.sink())
    result = stockade("export", "status")
    assert result.exit_code == 1
    _, lake, _ = result.stdout.splitlines()
    assert lake.split("  ")[0] == "lake"
    for told in ("failing 1m01s, again from 7", "12", "2.0 KiB", "1h01m", "never", "3", "1"):
        assert told in lake
    assert "no\\e[2J route\\nsiem" in lake
    assert "\x1b" not in result.stdout


def test_status_of_one_that_is_stopped(daemon: FakeDaemon, stockade: Stockade) -> None:
    playing(daemon, fake.sink(status=export_pb2.SINK_STATUS_STOPPED, why="its process ended"))
    result = stockade("export", "status")
    assert (result.exit_code, "its process ended" in result.stdout) == (1, True)


def test_status_without_sinks(daemon: FakeDaemon, stockade: Stockade) -> None:
    playing(daemon)
    result = stockade("export", "status")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no sinks" in result.stderr


def test_status_as_json(daemon: FakeDaemon, stockade: Stockade) -> None:
    playing(daemon, failing())
    result = stockade("export", "status", "--json")
    (found,) = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (found["status"], found["why"], found["replaying_from"]) == ("failing", HOSTILE, 7)
    assert (found["lag_entries"], found["lag_bytes"], found["lag_s"]) == (12, 2048, 3700.0)
    assert (found["acknowledged_at"], found["acknowledged"]) == (None, 0)
    assert found["failing_since"].endswith("Z")


@pytest.mark.parametrize("as_json", [False, True])
def test_status_is_watched(
    daemon: FakeDaemon, stockade: Stockade, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(export.time, "sleep", sleep)
    playing(daemon, fake.sink())
    result = stockade("export", "status", "--watch", *(["--json"] if as_json else []))
    assert (result.exit_code, len(daemon.asked("ListSinks"))) == (130, 3)
    assert slept == [export.WATCH_S] * 3
    lines = result.stdout.splitlines()
    assert len(lines) == (3 if as_json else 6)
    if as_json:
        assert all(json.loads(line)[0]["name"] == "siem" for line in lines)


def test_status_is_not_for_everybody(daemon: FakeDaemon, stockade: Stockade) -> None:
    def refuse(_: Any) -> Any:
        raise Abort("PERMISSION_DENIED", "EXPORTS_NOT_GRANTED")

    daemon.play("ListSinks", refuse)
    result = stockade("export", "status")
    assert (result.exit_code, "EXPORTS_NOT_GRANTED" in result.stderr) == (4, True)


def answering(*answers: dict[str, Any]) -> fake.Script:
    def script(_: Any) -> Iterator[export_pb2.TestSinkResponse]:
        for answer in answers:
            waited_s = answer.pop("waited_s", 0.0)
            message = export_pb2.TestSinkResponse(**{"index": 17, "sink": fake.sink(), **answer})
            message.waited.FromMilliseconds(round(waited_s * 1000))
            yield message

    return script


def test_a_test_that_arrives(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("TestSink", answering({}, {"acknowledged": True, "waited_s": 0.42}))
    result = stockade("export", "test", "siem")
    assert result.exit_code == 0
    assert result.stderr == "stockade: entry 17 was acknowledged by siem after 420 ms\n"
    assert daemon.asked("TestSink")[0].wait.ToSeconds() == 30


def test_a_test_that_does_not(daemon: FakeDaemon, stockade: Stockade) -> None:
    steps = ({"waited_s": n, "sink": failing()} for n in (0.0, 1.0, 5.5, 6.0, 12.0))
    daemon.play("TestSink", answering(*steps))
    result = stockade("export", "test", "--timeout", "12", "lake")
    assert result.exit_code == 1
    *waits, last = result.stderr.splitlines()
    assert len(waits) == 2
    assert waits[0].startswith("stockade: entry 17 waits: the sink is failing since 2023-11-14")
    assert "not acknowledged by lake within 12 s: the sink is failing since" in last
    assert "no\\e[2J route" in last and "it arrives once that is over" in last
    assert "\x1b" not in result.stderr


def test_a_test_behind_others(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("TestSink", answering({"sink": fake.sink(acknowledged=3), "waited_s": 1.0}))
    result = stockade("export", "test", "--timeout", "1", "siem")
    assert "of entries before it, 14 have not arrived yet" in result.stderr
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("kind", "why"),
    [("syslog", "syslog acknowledges nothing"), ("s3", "the other side has yet to acknowledge it")],
)
def test_a_test_that_waits_for_the_other_side(
    daemon: FakeDaemon, stockade: Stockade, kind: str, why: str
) -> None:
    sink = fake.sink(acknowledged=17, lag_entries=1, kind=kind)
    daemon.play("TestSink", answering({"sink": sink, "waited_s": 1.0}))
    result = stockade("export", "test", "--timeout", "1", "siem")
    assert f"was not acknowledged by siem within 1 s: {why}" in result.stderr
    assert result.exit_code == 1


def test_a_test_that_is_refused(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("TestSink", answering({"acknowledged": True, "refused": HOSTILE}))
    result = stockade("export", "test", "siem")
    assert result.exit_code == 1
    assert "is a dead letter: no\\e[2J" in result.stderr


def test_a_test_as_json(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("TestSink", answering({"waited_s": 6.0}, {"acknowledged": True, "waited_s": 7.5}))
    result = stockade("export", "test", "--json", "siem")
    found = json.loads(result.stdout)
    assert (found["index"], found["acknowledged"], found["waited_s"]) == (17, True, 7.5)
    assert (found["sink"]["name"], result.stderr, result.exit_code) == ("siem", "", 0)


def test_a_test_of_no_sink(daemon: FakeDaemon, stockade: Stockade) -> None:
    def script(_: Any) -> Iterator[Any]:
        raise Abort("NOT_FOUND", "SINK_UNKNOWN", "no", hint="there are: siem")
        yield

    daemon.play("TestSink", script)
    result = stockade("export", "test", "seim")
    assert (result.exit_code, "there are: siem" in result.stderr) == (3, True)


def replaying(daemon: FakeDaemon) -> None:
    daemon.play("ReplaySink", lambda _: export_pb2.ReplaySinkResponse(index=17, entries=383))


def test_a_replay(daemon: FakeDaemon, stockade: Stockade) -> None:
    replaying(daemon)
    result = stockade("export", "replay", "siem", "--from", "17", "--yes")
    assert (result.exit_code, result.stderr) == (
        0,
        "stockade: siem gets 383 entries from 17 on again\n",
    )
    planned, done = daemon.asked("ReplaySink")
    assert (planned.index, planned.dry_run, done.index, done.dry_run) == (17, True, 17, False)


def test_a_replay_from_a_time_does_what_was_said(daemon: FakeDaemon, stockade: Stockade) -> None:
    replaying(daemon)
    result = stockade("export", "replay", "--from", "2023-11-14", "-y", "--json", "siem")
    assert json.loads(result.stdout) == {"index": 17, "entries": 383}
    planned, done = daemon.asked("ReplaySink")
    assert planned.time.ToJsonString() == "2023-11-14T00:00:00Z"
    assert (done.WhichOneof("from"), done.index) == ("index", 17)


def test_a_replay_asks_first(
    daemon: FakeDaemon, stockade: Stockade, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaying(daemon)
    silent = stockade("export", "replay", "siem", "--from", "17")
    assert (silent.exit_code, "--yes" in silent.stderr) == (2, True)
    monkeypatch.setattr("supervisor.cli.standard.asks", lambda: True)
    no = stockade("export", "replay", "siem", "--from", "17", stdin=b"n\n")
    assert (no.exit_code, no.stdout) == (1, "")
    assert "siem gets 383 entries from 17 on again. Go on?" in no.stderr
    assert all(asked.dry_run for asked in daemon.asked("ReplaySink"))
    assert stockade("export", "replay", "siem", "--from", "17", stdin=b"y\n").exit_code == 0
    assert not daemon.asked("ReplaySink")[-1].dry_run


@pytest.mark.parametrize("place", ["soon", "-1", "1.5", "9" * 30, "²"])
def test_no_place(daemon: FakeDaemon, stockade: Stockade, place: str) -> None:
    assert stockade("export", "replay", "siem", f"--from={place}").exit_code == 2
    assert daemon.asked("ReplaySink") == []


def test_a_reload(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play(
        "Reload",
        lambda _: export_pb2.ReloadResponse(
            added=["a", "b"], unchanged=["siem"], ignored=["limits", "callers"]
        ),
    )
    result = stockade("export", "reload")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["added", "a,", "b"],
        ["unchanged", "siem"],
    ]
    assert result.stderr == "stockade: changed as well, and needs a restart: limits, callers\n"
    assert json.loads(stockade("export", "reload", "--json").stdout)["added"] == ["a", "b"]
    daemon.play("Reload", lambda _: export_pb2.ReloadResponse(unchanged=["siem"]))
    assert stockade("export", "reload").stderr == "stockade: no sink changed\n"


def test_a_reload_of_what_is_wrong(daemon: FakeDaemon, stockade: Stockade) -> None:
    def refuse(_: Any) -> Any:
        raise Abort("FAILED_PRECONDITION", "CONFIG_INVALID", "c.yaml:3:5: what\n    x\n    ^")

    daemon.play("Reload", refuse)
    result = stockade("export", "reload")
    assert (result.exit_code, "c.yaml:3:5: what\n    x\n    ^" in result.stderr) == (2, True)


def test_lint(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    result = stockade("export", "lint", path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "stockade: 2 sinks: files, out; 0 problems\n"
    assert json.loads(stockade("export", "lint", "--json", path).stdout) == []


def test_lint_of_what_is_wrong(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD.replace("path: /var", "path: var"))
    result = stockade("export", "lint", path)
    assert result.exit_code == 2
    assert result.stdout.startswith(f"{path}:3:10: ")
    assert result.stdout.splitlines()[2].strip() == "^"
    assert result.stderr == "stockade: 1 problem\n"
    (found,) = json.loads(stockade("export", "lint", "--json", path).stdout)
    assert (found["level"], found["file"]) == ("error", str(path))
    assert (found["line"], found["column"]) == (3, 10)


def test_lint_of_what_others_could_write(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    path.chmod(0o666)
    result = stockade("export", "lint", path)
    assert (result.exit_code, str(path) in result.stdout) == (2, True)
    assert "hint: " in result.stdout
    (found,) = json.loads(stockade("export", "lint", "--json", path).stdout)
    assert (found["line"], bool(found["hint"])) == (0, True)


def test_lint_of_nothing(stockade: Stockade, tmp_path: Path) -> None:
    result = stockade("export", "lint", tmp_path / "none.yaml")
    assert (result.exit_code, "there is no configuration" in result.stdout) == (2, True)


def test_lint_of_files_that_are_not_there(stockade: Stockade, tmp_path: Path) -> None:
    path, ca = tmp_path / "config.yaml", tmp_path / "ca.pem"
    sinks = (
        f"siem: {{type: syslog, address: 'a:1', tls: {{ca: {ca}}}}}",
        f"hook: {{type: webhook, url: 'https://a', secret: {{file: {tmp_path}/secret}}}}",
    )
    path.write_text("sinks:\n  " + "\n  ".join(sinks) + "\n")
    result = stockade("export", "lint", path)
    assert (result.exit_code, result.stderr) == (2, "stockade: 2 sinks: siem, hook; 2 problems\n")
    assert result.stdout.splitlines() == [
        f"sinks.siem.tls: there is no file {ca}",
        f"sinks.hook.secret[0]: there is no file {tmp_path}/secret",
    ]


def test_lint_where_there_is_no_configuration(
    stockade: Stockade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.api.config.DEFAULT_PATH", tmp_path / "none.yaml")
    result = stockade("export", "lint")
    assert result.exit_code == 0
    assert f"there is no {tmp_path}/none.yaml, so there are no sinks" in result.stderr
