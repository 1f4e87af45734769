"""`audit key`: made once and before the first start, and shown without the private half."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from supervisor.audit.directory import lock_state
from supervisor.audit.keys import KEY_NAME, PUBLIC_NAME, new_key, own_key
from supervisor.audit.notes import VerifierKey
from supervisor.audit.store import Store
from tests.unit.cli.conftest import Stockade

ORIGIN = "log.example.com/host-1"


def test_a_key_that_a_daemon_then_finds(stockade: Stockade, tmp_path: Path) -> None:
    state = tmp_path / "state"
    made = stockade("audit", "key", "new", "--origin", ORIGIN, state)
    assert made.exit_code == 0
    key = VerifierKey.parse(made.stdout)
    assert key.name == ORIGIN
    assert own_key(state, is_new=True).key == key
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / KEY_NAME).stat().st_mode & 0o777 == 0o600
    assert stockade("audit", "key", "show", state).stdout == made.stdout
    shown = json.loads(stockade("audit", "key", "show", "--json", state).stdout)
    assert shown == {"key": str(key), "origin": ORIGIN, "key_id": key.key_id.hex()}


def test_a_name_where_none_is_given(stockade: Stockade, tmp_path: Path) -> None:
    made = stockade("audit", "key", "new", "--json", tmp_path)
    assert "/stockade/" in json.loads(made.stdout)["origin"]


def test_a_copy_without_the_private_half(stockade: Stockade, tmp_path: Path) -> None:
    made = stockade("audit", "key", "new", tmp_path)
    (tmp_path / KEY_NAME).unlink()
    assert stockade("audit", "key", "show", tmp_path).stdout == made.stdout


def test_no_log_gets_a_second_key(stockade: Stockade, tmp_path: Path) -> None:
    assert stockade("audit", "key", "new", tmp_path).exit_code == 0
    before = {name: (tmp_path / name).read_bytes() for name in (KEY_NAME, PUBLIC_NAME)}
    again = stockade("audit", "key", "new", tmp_path)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "KEY_EXISTS" in again.stderr
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    (tmp_path / KEY_NAME).unlink()
    (tmp_path / "tlog").mkdir()
    (tmp_path / "tlog" / "checkpoint").write_bytes(b"")
    assert stockade("audit", "key", "new", tmp_path).exit_code == 2
    assert not (tmp_path / KEY_NAME).exists()


def test_not_under_a_daemon(stockade: Stockade, tmp_path: Path) -> None:
    lock = lock_state(tmp_path)
    try:
        for options in (("new",), ("rotate", "--config", config(tmp_path / "state"))):
            (tmp_path / "log").mkdir(exist_ok=True)
            locked = stockade("audit", "key", *options, tmp_path)
            assert locked.exit_code == 7
            assert f"a daemon has the state directory {tmp_path}, or another key" in locked.stderr
            assert "--state" not in locked.stderr
    finally:
        os.close(lock)
    assert not (tmp_path / KEY_NAME).exists()


def test_names_that_no_log_can_have(stockade: Stockade, tmp_path: Path) -> None:
    for name in ("", "a b", "a+b", "a\n"):
        refused = stockade("audit", "key", "new", "--origin", name, tmp_path / "state")
        assert refused.exit_code == 2
        assert "ORIGIN_INVALID" in refused.stderr
    assert not (tmp_path / "state").exists()


def test_what_cannot_be_shown(stockade: Stockade, tmp_path: Path) -> None:
    missing = stockade("audit", "key", "show", tmp_path)
    assert missing.exit_code == 3
    assert "KEY_MISSING" in missing.stderr
    stockade("audit", "key", "new", tmp_path)
    (tmp_path / KEY_NAME).chmod(0o644)
    assert "KEY_EXPOSED" in stockade("audit", "key", "show", tmp_path).stderr
    (tmp_path / KEY_NAME).unlink()
    (tmp_path / PUBLIC_NAME).write_bytes(b"\xff")
    broken = stockade("audit", "key", "show", tmp_path)
    assert broken.exit_code == 5
    assert "KEY_INVALID" in broken.stderr


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder whose log has begun."""
    asyncio.run(Store.open(tmp_path / "state").close())
    return tmp_path / "state"


def test_a_log_gets_another_key(stockade: Stockade, state: Path) -> None:
    first = stockade("audit", "key", "show", state).stdout
    done = stockade("audit", "key", "rotate", "--config", config(state), state)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == stockade("audit", "key", "show", state).stdout != first
    old, new = (VerifierKey.parse(text).key_id.hex() for text in (first, done.stdout))
    assert f"entry 0 hands the log over from {old} to {new}" in done.stderr
    told = stockade("audit", "verify", "--key", first.strip(), state)
    assert told.exit_code == 0
    assert f"signed by {new}, to which {old} handed it over" in told.stdout
    again = stockade("audit", "key", "rotate", "--json", "--config", config(state), state)
    document = json.loads(again.stdout)
    assert (document["former"], document["index"]) == (done.stdout.strip(), 1)
    report = json.loads(stockade("audit", "verify", "--json", state).stdout)
    assert report["signers"] == [first.strip(), document["former"], document["key"]]
    assert "to which the first key beside it handed" in stockade("audit", "verify", state).stdout


def config(state: Path, key: Path | None = None, origin: str = "") -> Path:
    """Write a configuration, with a log's key or without."""
    path = state.parent / f"{key.parent.name if key else 'plain'}.yaml"
    record = {"record": {"origin": origin, "key": {"file": str(key)}}} if key else {}
    path.write_text(json.dumps({"state": str(state), **record}))
    return path


def test_a_log_gets_the_key_of_a_configuration(stockade: Stockade, state: Path) -> None:
    origin = VerifierKey.parse((state / PUBLIC_NAME).read_text()).name
    keys = [new_key(state.parent / name, origin) for name in ("a", "b")]
    a, b = (config(state, state.parent / name / KEY_NAME, origin) for name in ("a", "b"))
    rotate = ("audit", "key", "rotate", "--json")
    done = stockade(*rotate, "--config", config(state), "--to", a)  # The folder it names itself.
    assert json.loads(done.stdout)["key"] == str(keys[0])
    assert not (state / KEY_NAME).exists()
    unclear = stockade(*rotate, "--config", a)
    assert unclear.exit_code == 2
    assert "--to names the configuration" in " ".join(unclear.stderr.split())
    assert json.loads(stockade(*rotate, "--config", a, "--to", b).stdout)["index"] == 1
    assert json.loads(stockade(*rotate, "--config", a, "--to", b).stdout)["index"] == -1
    assert "already" in stockade(*rotate[:-1], "--config", a, "--to", b).stderr
    wrong = stockade(*rotate, "--config", config(state), "--to", a)
    assert wrong.exit_code == 5
    back = stockade(*rotate, "--config", b, "--to", config(state))
    assert json.loads(back.stdout)["former"] == str(keys[1])
    assert (state / KEY_NAME).exists()
    assert stockade("audit", "verify", state).exit_code == 0


def test_a_log_that_there_is_not_is_not_handed_over(stockade: Stockade, tmp_path: Path) -> None:
    configured = config(tmp_path / "state")
    missing = stockade("audit", "key", "rotate", "--config", configured)
    assert missing.exit_code == 2
    assert "RECORD_MISSING" in missing.stderr
    assert "with --config" in missing.stderr
    named = stockade("audit", "key", "rotate", "--config", configured, tmp_path / "state")
    assert "with --config" not in named.stderr


def test_a_key_that_is_missing_is_named_once(stockade: Stockade, state: Path) -> None:
    (state / KEY_NAME).unlink()
    said = stockade("audit", "key", "rotate", "--config", config(state), state).stderr
    assert f"{state / KEY_NAME}: it cannot be opened: No such file or directory" in said
    assert said.count(KEY_NAME) == 1
    (state / PUBLIC_NAME).unlink()
    (state / PUBLIC_NAME).symlink_to("nowhere")
    said = stockade("audit", "key", "show", state).stderr
    assert f"{state / PUBLIC_NAME}: it cannot be read: No such file or directory" in said
    assert said.count(PUBLIC_NAME) == 1


def test_a_configuration_that_others_may_write_names_no_key(
    stockade: Stockade, state: Path
) -> None:
    for option in ("--config", "--to"):
        path = config(state, state.parent / "a" / KEY_NAME, ORIGIN)
        path.chmod(0o666)
        plain = config(state)
        options = (option, path) if option == "--config" else ("--config", plain, option, path)
        refused = stockade("audit", "key", "rotate", *options)
        assert "POLICY_WRITABLE" in refused.stderr
        assert refused.exit_code == 2
