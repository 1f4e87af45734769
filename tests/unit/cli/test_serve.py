"""`serve`: the command line wins over the file, and a daemon that cannot start says why."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.api.config import Configuration
from supervisor.api.metrics import Metrics
from supervisor.audit.keys import new_key, private_key
from supervisor.cli import provided, serve
from supervisor.cli.folders import shipped_profiles
from supervisor.egress.terminate import make_authority
from supervisor.errors import AuditUnavailable, HostError, InvalidRequest, ProfileError
from supervisor.profile.load import ProfileSet
from supervisor.profile.model import Redact
from supervisor.profile.walls import WallState
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


@pytest.mark.usefixtures("root")
def test_wrong_configuration(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("spell: 1\n")
    result = stockade("serve", "--config", path)
    assert result.exit_code == ProfileError.exit_code
    assert "[CONFIG_INVALID]" in result.stderr
    assert f"{path}:1:" in result.stderr
    assert stockade("serve", "--config", tmp_path / "none").exit_code == 2


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


# What is checked before anything is made


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that can raise the walls, and a daemon that stops where it would begin."""
    monkeypatch.setattr("supervisor.linux.host.check_host", lambda: None)
    monkeypatch.setattr(serve, "_enter_private_mounts", lambda: None)
    monkeypatch.setattr(serve, "settle", lambda **_: None)


def test_without_root_nothing_is_made(
    stockade: Stockade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    places = [tmp_path / name for name in ("state", "run")]
    result = stockade(
        "serve", "--state", places[0], "--runtime-dir", places[1],
        "--listen", f"unix://{tmp_path}/s.sock",
    )  # fmt: skip
    assert "[ROOT_REQUIRED]" in result.stderr
    assert result.exit_code == HostError.exit_code
    # Also before a file is read that it may not read.
    assert "[ROOT_REQUIRED]" in stockade("serve", "--config", tmp_path / "none").stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("root")
def test_a_configuration_that_all_can_write(stockade: Stockade, file: Path, tmp_path: Path) -> None:
    file.chmod(0o666)
    result = stockade("serve", "--config", file, "--state", tmp_path / "state")
    assert "[POLICY_WRITABLE]" in result.stderr
    assert result.exit_code == ProfileError.exit_code
    assert not (tmp_path / "state").exists()


@pytest.mark.usefixtures("root")
def test_profiles_that_all_can_write(stockade: Stockade, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    profiles.chmod(0o777)
    result = stockade("serve", "--profiles", profiles, "--state", tmp_path / "state")
    assert "[POLICY_WRITABLE]" in result.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.usefixtures("root")
def test_a_refusal_to_start_is_json_where_the_log_is(stockade: Stockade, file: Path) -> None:
    file.chmod(0o666)
    result = stockade("serve", "--config", file, "--log-json")
    (line,) = result.stderr.splitlines()
    assert json.loads(line)["level"] == "critical"
    assert "POLICY_WRITABLE" in json.loads(line)["message"]
    assert result.exit_code == ProfileError.exit_code


WRONG = "profile: wrong\nextends: nothing\nwhy: A test.\n"


def with_wrong_profile(folder: Path) -> Path:
    profiles = folder / "profiles"
    shutil.copytree(shipped_profiles(), profiles)
    (profiles / "wrong.yaml").write_text(WRONG)
    return profiles


def config_with(folder: Path, grant: str) -> Path:
    path = folder / "granted.yaml"
    path.write_text(f"callers: [{{name: a, uid: 0, profiles: ['{grant}']}}]\n")
    return path


def test_a_wrong_profile_that_is_granted_by_name(tmp_path: Path) -> None:
    config = serve.configuration(
        config_with(tmp_path, "wrong"),
        state=tmp_path / "state",
        folders=(with_wrong_profile(tmp_path),),
    )
    with pytest.raises(ProfileError) as caught:
        serve.build_daemon(config, tmp_path / "run")
    assert caught.value.reason == "CONFIG_PROFILE_INVALID"
    assert "wrong.yaml:2:10: " in caught.value.message
    assert "^" in caught.value.message
    assert not (tmp_path / "state").exists()


# The wiring


class Built:
    """Stands in for the engine and keeps what it was made with."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.engine.Engine", Built)


SENDS = """\
profile: sends
extends: github
why: A test.
egress: [{host: api.github.com, port: 443, inspect: tls-terminate, why: x}]
secrets: [{name: github, header: Authorization, host: api.github.com, why: x}]
"""

NOTED = "profile: noted\nextends: base\nwhy: A test.\nenv: {DB_PASS: hunter2}\n"

CERTIFICATE = make_authority(["a.example.com"]).certificate


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (CERTIFICATE, ""),
        (f"of the house\n{CERTIFICATE}\n{CERTIFICATE}", ""),
        (None, "No such file"),
        ("", "holds no certificate"),
        ("\n", "holds no certificate"),
        ("spell: 1\n", "holds no certificate"),
        (CERTIFICATE.replace("M", "N", 1), "holds no certificate"),
        (b"\xff\xfe", "holds no certificate"),
    ],
)
def test_authorities_that_are_none_keep_the_daemon_from_starting(
    tmp_path: Path, content: str | bytes | None, wrong: str
) -> None:
    file, path = tmp_path / "ca.pem", tmp_path / "config.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.write_text(f"egress: {{ca: {file}}}\n")
    config = serve.configuration(path, state=tmp_path / "state")
    if not wrong:
        assert provided.egress_options(config).authorities == file
        return
    with pytest.raises(ProfileError, match=f"egress.ca: {file}: {wrong}") as caught:
        serve.build_daemon(config, tmp_path / "run")
    assert caught.value.reason == "CONFIG_INVALID"


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("known", [False, True])
def test_a_secret_that_is_not_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    profiles = tmp_path / "profiles"
    shutil.copytree(shipped_profiles(), profiles)
    (profiles / "sends.yaml").write_text(SENDS)
    (profiles / "noted.yaml").write_text(NOTED)
    path = tmp_path / "config.yaml"
    path.write_text("secrets: {github: {file: /nothing/here}}\n" if known else "secrets: {}\n")
    config = serve.configuration(path, state=tmp_path / "state", folders=(profiles,))
    asyncio.run(close(serve.build_daemon(config, tmp_path / "run")))
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any("profile sends names the secret github" in one for one in told) == (not known)
    (in_clear,) = [one for one in told if one.startswith("profile noted: ")]
    assert "noted.yaml:4:16: env.DB_PASS looks like a secret" in in_clear
    assert "hunter2" not in in_clear


@pytest.mark.usefixtures("built")
def test_a_wrong_profile_that_is_granted_with_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = serve.configuration(
        config_with(tmp_path, "*"),
        state=tmp_path / "state",
        folders=(with_wrong_profile(tmp_path),),
    )
    asyncio.run(close(serve.build_daemon(config, tmp_path / "run")))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "wrong.yaml:2:10: " in warning


@pytest.mark.usefixtures("built")
def test_limits_reach_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("limits: {calls: 7, keepalive: 3s}\n")
    config = serve.configuration(path, state=tmp_path / "state")
    daemon = serve.build_daemon(config, tmp_path / "run")
    engine: Any = daemon.engine
    assert engine.options.calls_max == 7
    assert engine.options.keep_alive_s == 3.0
    assert engine.state == tmp_path / "state"
    assert engine.runtime == tmp_path / "run"
    assert engine.observer is daemon.metrics
    assert engine.store is daemon.store
    value = daemon.metrics.registry.get_sample_value
    assert value("stockade_state_free_bytes")
    assert value("stockade_calls_limit") == 7
    assert value("stockade_log_entries") == daemon.store.outlet.signing().durable
    base = daemon.engine.profiles.effective("base")
    labels = {"profile": "base", "digest": base.digest, "mode": base.mode}
    assert value("stockade_profile_info", labels) == 1
    asyncio.run(close(daemon))


async def close(daemon: serve.Daemon) -> None:
    await daemon.store.close()


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("where", ["file", "credential"])
def test_the_logs_key_is_the_one_that_is_configured(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_key(tmp_path / "keys", "any.example.com")
    private = tmp_path / "keys" / "log.key"
    source = {"file": str(private), "credential": private.name}[where]
    path = tmp_path / "config.yaml"
    path.write_text(f"record: {{origin: log.example.com, key: {{{where}: {source}}}}}\n")
    config = serve.configuration(path, state=tmp_path / "state")
    if where == "credential":
        with pytest.raises(HostError, match="systemd gave this daemon none"):
            serve.build_daemon(config, tmp_path / "run")
        monkeypatch.setenv(provided.CREDENTIALS, str(private.parent))
    daemon = serve.build_daemon(config, tmp_path / "run")
    _, key = daemon.store.head()
    assert key.name == "log.example.com"
    assert key.public == private_key(private).public_key().public_bytes_raw()
    assert not (tmp_path / "state" / "log.key").exists()
    asyncio.run(close(daemon))


def test_how_witnesses_do_is_measured(tmp_path: Path) -> None:
    path, heads = tmp_path / "config.yaml", tmp_path / "heads"
    path.write_text(f"witnesses: [{{file: {heads}}}, {{file: {tmp_path}}}]\n")
    config = serve.configuration(path, state=tmp_path / "state", folders=(shipped_profiles(),))
    daemon = serve.build_daemon(config, tmp_path / "run")
    asyncio.run(close(daemon))
    value = daemon.metrics.registry.get_sample_value
    for name, fails in ((heads, 0), (tmp_path, 1)):
        assert value("stockade_witness_failing", {"witness": str(name)}) == fails
    assert value("stockade_witness_head_time_seconds", {"witness": str(heads)})
    assert not value("stockade_heads_contradicted_total", {"witness": str(heads)})


@pytest.mark.parametrize(("redact", "is_used"), [("", False), ("re2", False), ("hyperscan", True)])
def test_secrets_are_looked_for_by_what_the_configuration_names(
    redact: str, is_used: bool, tmp_path: Path
) -> None:
    if is_used:
        pytest.importorskip("hyperscan", reason="stockade[hyperscan] is not installed")
    path = tmp_path / "config.yaml"
    path.write_text(f"record: {{redact: {{engine: {redact}}}}}\n" if redact else "limits: {}\n")
    config = serve.configuration(path, state=tmp_path / "state", folders=(shipped_profiles(),))
    daemon = serve.build_daemon(config, tmp_path / "run")
    mask = daemon.store.masks.make(Redact(), {})
    assert mask is not None
    assert (mask.rules.prefilter is not None) is is_used
    asyncio.run(close(daemon))


def test_a_library_that_is_named_and_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hyperscan", None)
    path = tmp_path / "config.yaml"
    path.write_text("record: {redact: {engine: hyperscan}}\n")
    config = serve.configuration(path, state=tmp_path / "state", folders=(shipped_profiles(),))
    with pytest.raises(HostError, match=r"record\.redact\.engine") as caught:
        serve.build_daemon(config, tmp_path / "run")
    assert caught.value.reason == "HYPERSCAN_MISSING"
    assert "stockade[hyperscan]" in caught.value.hint


# What goes wrong on the way


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
)
@pytest.mark.usefixtures("root")
def test_a_host_that_has_no_more(
    error: Exception, stockade: Stockade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(serve, "build_daemon", fail)
    result = stockade("serve", "--state", tmp_path / "state")
    assert "[HOST_EXHAUSTED]" in result.stderr
    assert result.exit_code == HostError.exit_code


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EIO, "no disk")])
def test_what_is_not_exhaustion_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, serve.exhaustion_named():
        raise error
    assert caught.value is error


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("count", [0, 3])
def test_calls_of_a_daemon_that_died_are_told(
    count: int,
    stockade: Stockade,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Store:
        interrupted = tuple(Built(call_id=str(number)) for number in range(count))
        failure = None
        outlet = Built(origin="log.example.com")

        def get_call(self, call_id: str) -> Built:
            return Built(profile="python")

        async def note(self, kind: str, _body: object) -> None:
            assert kind == "policy"

        async def close(self) -> None:
            await asyncio.sleep(0)

    class Engine:
        profiles = ProfileSet({}, {})

        async def start(self) -> None:
            Store.interrupted = ()

        def walls(self) -> dict[str, WallState]:
            return {}

    async def served(*_: object, **given: Any) -> None:
        assert given["source"] == ""

    metrics = Metrics(["python"])
    daemon = Built(
        store=Store(), engine=Engine(), metrics=metrics, config=Configuration(), sinks=StubSinks([])
    )
    monkeypatch.setattr(serve, "build_daemon", lambda *_, **__: daemon)
    monkeypatch.setattr("supervisor.api.server.serve", served)
    monkeypatch.setattr("supervisor.api.config.DEFAULT_PATH", tmp_path / "none.yaml")
    result = stockade("serve", "--state", tmp_path / "state")
    assert result.exit_code == 0
    told = [line for line in result.stderr.splitlines() if "interrupted" in line]
    assert [
        " WARNING stockade: the last daemon died; " in line and line.endswith(f": {count}")
        for line in told
    ] == ([True] if count else [])
    labels = {"profile": "python", "outcome": "interrupted"}
    assert metrics.registry.get_sample_value("stockade_calls_total", labels) == count


class StubSinks:
    """The sinks of a daemon, which tell what was done."""

    def __init__(self, deeds: list[str]) -> None:
        self.deeds = deeds

    async def start(self, *_: object) -> None:
        self.deeds.append("sinks")
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.deeds.append("no sinks")
        await asyncio.sleep(0)


class StubDaemon:
    """The rooms of a daemon that sends itself a signal at one moment and tells what was done."""

    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.deeds: list[str] = []
        self.sinks = StubSinks(self.deeds)
        self.store = self.engine = self.outlet = self
        self.origin = "log.example.com"
        self.config, self.metrics = Configuration(), None
        self.interrupted = ()
        self.failure = None
        self.profiles = ProfileSet({}, {})

    def walls(self) -> dict[str, WallState]:
        return {}

    def deed(self, name: str) -> None:
        self.deeds.append(name)
        if name == self.moment:
            os.kill(os.getpid(), signal.SIGTERM)

    def build(self, *_: object, **__: object) -> StubDaemon:
        self.deed("build")
        return self

    async def start(self) -> None:
        self.deed("start")
        await asyncio.sleep(0)

    async def note(self, kind: str, _body: object) -> None:
        self.deed(kind)
        if self.moment == "unwritten":
            raise AuditUnavailable("RECORD_FULL", "no")

    async def drain(self, _grace_s: float) -> None:
        self.deed("drain")
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.deed("close")
        await asyncio.sleep(0)

    async def serve(self, *_: object, stop: asyncio.Event, **_given: object) -> None:
        self.deed("serve")
        if self.moment == "fail":
            raise HostError("ADDRESS_UNUSABLE", "no")
        async with asyncio.timeout(20):
            await stop.wait()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("moment", "deeds"),
    [
        ("settle", []),
        ("build", ["build", "no sinks", "close"]),
        ("start", ["build", "start", "drain", "no sinks", "close"]),
        ("serve", ["build", "start", "policy", "sinks", "serve", "no sinks", "close"]),
        ("fail", ["build", "start", "policy", "sinks", "serve", "drain", "no sinks", "close"]),
        ("unwritten", ["build", "start", "policy", "drain", "no sinks", "close"]),
    ],
)
def test_a_signal_at_any_moment_ends_it_in_order(
    moment: str,
    deeds: list[str],
    stockade: Stockade,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    daemon = StubDaemon(moment)
    if moment == "settle":
        monkeypatch.setattr(serve, "settle", lambda **_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(serve, "build_daemon", daemon.build)
    monkeypatch.setattr("supervisor.api.server.serve", daemon.serve)
    monkeypatch.setattr("supervisor.api.config.DEFAULT_PATH", tmp_path / "none.yaml")
    result = stockade("serve", "--state", tmp_path / "state")
    codes = {"fail": HostError.exit_code, "unwritten": AuditUnavailable.exit_code}
    assert result.exit_code == codes.get(moment, 0)
    assert daemon.deeds == deeds


@pytest.mark.usefixtures("root")
def test_a_second_signal_does_not_cut_the_end_short(
    stockade: Stockade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon = StubDaemon("serve")
    close = daemon.close

    async def closed() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await close()

    monkeypatch.setattr(daemon, "close", closed)
    monkeypatch.setattr(serve, "build_daemon", daemon.build)
    monkeypatch.setattr("supervisor.api.server.serve", daemon.serve)
    monkeypatch.setattr("supervisor.api.config.DEFAULT_PATH", tmp_path / "none.yaml")
    assert stockade("serve", "--state", tmp_path / "state").exit_code == 0
    assert daemon.deeds[-1] == "close"


def test_grpc_is_quiet_where_the_log_is_ours(
    stockade: Stockade, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", "")  # so that it is put back
    monkeypatch.delenv("GRPC_VERBOSITY")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    stockade("serve", "--config", file)
    assert os.environ["GRPC_VERBOSITY"] == "NONE"
