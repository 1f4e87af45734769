"""`doctor`: rows as they come, and an exit code that says whether all walls hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import supervisor.sandbox
from supervisor.api.metrics import Metrics
from supervisor.audit.cursors import Cursor, Cursors
from supervisor.audit.retention import PROBLEM_NAME, write_problem
from supervisor.audit.witness_word import WitnessWord
from tests.support.profiles import with_profiles
from tests.unit.cli.conftest import Stockade


@dataclass(frozen=True)
class Row:
    """One wall."""

    wall: str
    verdict: str
    detail: str = ""
    advice: str = ""


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, list[str]]]]:
    """Rows without trying, by what the profiles require: its guard is absent."""
    asked: list[dict[str, list[str]]] = []

    def doctor(_: Path, *, required: dict[str, list[str]], path: str) -> list[Row]:
        assert path
        asked.append(required)
        return [Row("guard", "fails" if "guard" in required else "absent")]

    monkeypatch.setattr(supervisor.sandbox, "doctor", doctor)
    monkeypatch.setattr("supervisor.api.config.DEFAULT_PATH", tmp_path / "none.yaml")
    yield asked


@pytest.mark.parametrize(
    ("verdict", "exit_code"), [("holds", 0), ("absent", 0), ("fails", 5), ("unknown", 5)]
)
def test_doctor(
    stockade: Stockade, monkeypatch: pytest.MonkeyPatch, verdict: str, exit_code: int
) -> None:
    rows = [Row("files", "holds"), Row("syscalls", verdict, "d\x1b", "do this")]
    monkeypatch.setattr(supervisor.sandbox, "doctor", lambda _, **__: rows)
    result = stockade("doctor")
    assert result.exit_code == exit_code
    assert result.stdout.splitlines()[2].split() == ["syscalls", verdict, "d\\e", "do", "this"]
    assert json.loads(stockade("doctor", "--json").stdout)[1] == {
        "wall": "syscalls", "verdict": verdict, "detail": "d\x1b", "advice": "do this",
    }  # fmt: skip


def test_no_shipped_profile_requires_what_hosts_may_lack(
    stockade: Stockade, given: list[dict[str, list[str]]]
) -> None:
    assert stockade("doctor").exit_code == 0
    assert given == [{}]


def test_what_a_profile_requires_fails_where_it_is_absent(
    stockade: Stockade, given: list[dict[str, list[str]]], tmp_path: Path
) -> None:
    config = with_profiles(
        tmp_path / "own",
        strict="require: [guard]",
        wrong="require: [seccomp]",
        other="runtime: crun",
    )
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert stockade("doctor", "--config", tmp_path / "config.yaml").exit_code == 5
    assert given == [{"guard": ["strict"], "crun": ["other"]}]


def configured(
    stockade: Stockade, path: Path, wall: str = "configuration"
) -> tuple[int, dict[str, str]]:
    """Give the exit code, and the row of the configuration, or another."""
    result = stockade("doctor", "--json", "--config", path)
    (row,) = [row for row in json.loads(result.stdout) if row["wall"] == wall]
    return result.exit_code, row


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize(
    ("config", "detail", "advice"),
    [
        ({"profiles": ["{}/none"]}, "/none", ""),
        (
            {"callers": [{"name": "a", "uid": 0, "profiles": ["mine"]}]},
            "'mine', which is",
            "python",
        ),
        ({"nonsense": 1}, "config.yaml:1:2", "serve"),
        ({"egress": {"ca": "{}/none.pem"}}, "/none.pem: No such file or directory", "in PEM"),
        ({"egress": {"ca": "{}/config.yaml"}}, "/config.yaml: holds no certificate", "in PEM"),
    ],
)
def test_a_configuration_under_which_no_daemon_starts(
    stockade: Stockade, tmp_path: Path, config: dict[str, object], detail: str, advice: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config).replace("{}", str(tmp_path)))
    code, row = configured(stockade, path)
    assert (code, row["verdict"]) == (5, "fails")
    assert "would not start" in row["detail"]
    assert detail in row["detail"]
    assert advice in row["advice"]


@pytest.mark.root
@pytest.mark.usefixtures("given")
@pytest.mark.parametrize(
    ("file", "mode", "detail"), [("none", 0, "hook"), ("secret", 0o644, "hook"), ("ca", 0, "siem")]
)
def test_files_of_sinks_without_which_no_daemon_starts(
    stockade: Stockade, tmp_path: Path, file: str, mode: int, detail: str
) -> None:
    if mode:
        (tmp_path / file).write_text("whsec_" + "MTIz" * 8)
        (tmp_path / file).chmod(mode)
    place = str(tmp_path / file)
    hook = {"type": "webhook", "url": "https://example.com/", "secret": {"file": place}}
    siem = {"type": "syslog", "address": "example.com:6514", "tls": {"ca": place}}
    path = tmp_path / "config.yaml"
    sinks = {"hook": hook} if detail == "hook" else {"siem": siem}
    path.write_text(json.dumps({"sinks": sinks}))
    code, row = configured(stockade, path)
    assert (code, row["verdict"]) == (5, "fails")
    assert "would not start" in row["detail"]
    assert detail in row["detail"]
    if mode:
        (tmp_path / file).chmod(0o600)
        assert configured(stockade, path)[1]["verdict"] == "holds"


@pytest.mark.usefixtures("given")
def test_a_configuration_that_is_not_there(stockade: Stockade, tmp_path: Path) -> None:
    code, row = configured(stockade, tmp_path / "nope.yaml")
    assert (code, row["verdict"]) == (5, "fails")
    assert "--config" in row["advice"]
    assert "lint" not in row["advice"]


@pytest.mark.usefixtures("given")
def test_wrong_profiles_fail(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(with_profiles(tmp_path / "own", good="", wrong="runtime: 7")))
    code, row = configured(stockade, path)
    assert (code, row["verdict"], row["advice"]) == (5, "fails", "stockade profile lint")
    assert row["detail"] == "the daemon starts, and refuses what is wrong: wrong"


@pytest.mark.usefixtures("given")
def test_a_secret_without_a_source_fails(stockade: Stockade, tmp_path: Path) -> None:
    rule = "{host: a.example.com, port: 443, inspect: tls-terminate, why: x}"
    secret = "{name: key, header: X-Key, host: a.example.com, why: x}"  # noqa: S105 (a name)
    calls = 'syscalls: {allow: ["@network-io"]}'
    out = f"egress: [{rule}]\nsecrets: [{secret}]\n{calls}"
    path, config = tmp_path / "config.yaml", with_profiles(tmp_path / "own", good="", out=out)
    path.write_text(json.dumps(config))
    code, row = configured(stockade, path)
    assert (code, row["verdict"]) == (5, "fails")
    assert row["detail"].startswith("the daemon starts, and refuses calls")
    assert row["detail"].endswith(": out (key)")
    assert "secrets:" in row["advice"]
    source = {"key": {"file": str(tmp_path / "key")}}
    path.write_text(json.dumps({**config, "secrets": source}))
    assert configured(stockade, path)[1]["verdict"] == "holds"


@pytest.mark.usefixtures("given")
def test_a_configuration_under_which_a_daemon_starts(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(with_profiles(tmp_path / "own", good="")))
    code, row = configured(stockade, path)
    assert (code, row["verdict"]) == (0, "holds")
    assert str(path) in row["detail"]


@pytest.mark.usefixtures("given")
def test_what_keeps_retention_from_removing(stockade: Stockade, tmp_path: Path) -> None:
    state, path = tmp_path / "state", tmp_path / "config.yaml"
    retain = {"age": "90d", "exported_by": ["siem"]}
    config = with_profiles(tmp_path / "own", good="")
    path.write_text(json.dumps({**config, "state": str(state), "record": {"retain": retain}}))
    state.mkdir()
    code, row = configured(stockade, path, "retention")
    assert (code, row["verdict"]) == (5, "fails")
    assert "the cursor siem: it is missing" in row["detail"]
    Cursors(state).advance("siem", Cursor(index=0))
    assert configured(stockade, path, "retention")[1]["verdict"] == "holds"
    write_problem(state / PROBLEM_NAME, "CLOCK_AHEAD: by a year")
    code, row = configured(stockade, path, "retention")
    assert (code, row["verdict"], row["detail"]) == (5, "fails", "CLOCK_AHEAD: by a year")


@pytest.mark.usefixtures("given")
def test_a_witness_that_contradicts_the_log_fails(stockade: Stockade, tmp_path: Path) -> None:
    state, path = tmp_path / "state", tmp_path / "config.yaml"
    config = with_profiles(tmp_path / "own", good="")
    witnesses = [{"file": "/mnt/heads"}]
    path.write_text(json.dumps({**config, "state": str(state), "witnesses": witnesses}))
    state.mkdir()
    assert configured(stockade, path, "log key")[1]["verdict"] == "absent"
    code, row = configured(stockade, path, "witness /mnt/heads")
    assert (code, row["verdict"]) == (0, "absent")
    WitnessWord(state, Metrics([])).head_contradicted("/mnt/heads", "it was cut back")
    code, row = configured(stockade, path, "witness /mnt/heads")
    assert (code, row["verdict"]) == (5, "fails")
    assert "it was cut back" in row["detail"]
