"""`serve`: the command line wins over the file, and a daemon that cannot start says why."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from supervisor.cli import serve
from supervisor.errors import AuditUnavailable, InvalidRequest, ProfileError
from tests.unit.cli.conftest import Stockade


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("listen: [unix:///run/a.sock]\nstate: /srv/a\n")
    return path


def test_the_file_is_read(file: Path) -> None:
    config = serve.configuration(file)
    assert [listener.unix for listener in config.listen] == ["/run/a.sock"]
    assert (config.state, config.profiles) == ("/srv/a", None)


def test_the_command_line_wins(file: Path) -> None:
    config = serve.configuration(
        file,
        state=Path("/srv/b"),
        addresses=("unix:///run/b.sock", "unix:///run/c.sock"),
        folders=(Path("/p"),),
    )
    assert [listener.unix for listener in config.listen] == ["/run/b.sock", "/run/c.sock"]
    assert (config.state, config.profiles) == ("/srv/b", ["/p"])


@pytest.mark.parametrize(
    "address", ["0.0.0.0:7443", "unix:relative", "tcp", "unix:///" + "a" * 200]
)
def test_an_address_that_cannot_be_listened_on(address: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        serve.configuration(None, addresses=(address,))
    assert caught.value.reason == "ADDRESS_INVALID"


def test_wrong_configuration(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("spell: 1\n")
    result = stockade("serve", "--config", path)
    assert result.exit_code == ProfileError.exit_code
    assert "[CONFIG_INVALID]" in result.stderr
    assert f"{path}:1:" in result.stderr
    assert stockade("serve", "--config", tmp_path / "none").exit_code == 2


def log_of(record: logging.LogRecord) -> dict[str, str]:
    line = serve.JsonLines().format(record)
    assert "\n" not in line
    found: dict[str, str] = json.loads(line)
    return found


def test_json_log() -> None:
    try:
        raise ValueError("no\nway")
    except ValueError as error:
        caught = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("stockade.x", logging.ERROR, "f", 1, "a %s", ("b\n",), caught)
    found = log_of(record)
    assert (found["level"], found["logger"], found["message"]) == ("error", "stockade.x", "a b\n")
    assert "ValueError" in found["exception"]
    record.exc_info = None
    assert "exception" not in log_of(record)


def test_a_state_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = serve.configuration(None, state=tmp_path / "file" / "state")
    with pytest.raises(AuditUnavailable) as caught:
        serve.build_daemon(config, tmp_path / "run")
    assert caught.value.reason == "STATE_UNUSABLE"


def test_a_profile_folder_that_is_not_there(tmp_path: Path) -> None:
    config = serve.configuration(None, state=tmp_path / "state", folders=(tmp_path / "none",))
    with pytest.raises(ProfileError):
        serve.build_daemon(config, tmp_path / "run")
    assert not (tmp_path / "state").exists()
