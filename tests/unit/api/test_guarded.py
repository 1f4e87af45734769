"""Policy that somebody else could write is refused, wherever on its path that is."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.api import guarded
from supervisor.api.config import Configuration
from supervisor.cli.folders import shipped_profiles
from supervisor.errors import ProfileError

ME = os.getuid()
OTHER_GID = 12_345_678
"""A group that nobody is in, and that has no name."""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of this user, whatever umask the tests run under."""
    folder = tmp_path / "policy"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    return folder


def write(folder: Path, name: str, mode: int = 0o644) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.parent.chmod(0o755)
    path.write_text("x")
    path.chmod(mode)
    return path


def check(
    *,
    source: Path | None = None,
    profiles: tuple[Path, ...] = (),
    tls: dict[str, str] | None = None,
    **more: Any,
) -> str:
    """Give the reason of the refusal, "" where there is none."""
    listen = [{"tcp": "127.0.0.1:0", "tls": tls}] if tls else ["unix:///run/x.sock"]
    callers = [{"name": "a", "cn": "a", "profiles": []}] if tls else None
    settings = {"listen": listen, **({"callers": callers} if callers else {}), **more}
    config = Configuration.model_validate(settings)
    try:
        guarded.require_guarded(config, source=source, profiles=profiles)
    except ProfileError as error:
        assert error.metadata["path"] in error.message
        assert error.metadata["mode"] in error.message
        assert error.hint
        return error.reason
    return ""


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (0o644, ""),
        (0o600, ""),
        (0o444, ""),
        (0o646, "POLICY_WRITABLE"),
        (0o666, "POLICY_WRITABLE"),
        (0o602, "POLICY_WRITABLE"),
    ],
)
def test_the_configuration(mode: int, reason: str, own: Path) -> None:
    assert check(source=write(own, "config.yaml", mode)) == reason


def test_through_a_symbolic_link(own: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(write(own, "config.yaml", 0o666))
    assert check(source=link) == "POLICY_WRITABLE"


def test_no_configuration_and_none_that_is_there(tmp_path: Path) -> None:
    assert check() == ""
    assert check(source=tmp_path / "none.yaml") == ""


@pytest.mark.parametrize("where", ["policy", "."])
def test_a_folder_on_the_way(where: str, own: Path, tmp_path: Path) -> None:
    path = write(own, "config.yaml")
    folder = tmp_path / where
    folder.chmod(0o777)
    assert check(source=path) == "POLICY_WRITABLE"
    folder.chmod(0o1777)  # nobody but its owner replaces a file in a sticky folder
    assert check(source=path) == ""


@pytest.mark.parametrize("place", [".", "a.yaml", "fragments", "fragments/b.yaml"])
def test_profiles(place: str, own: Path) -> None:
    write(own, "a.yaml")
    write(own, "fragments/b.yaml")
    assert check(profiles=(own,)) == ""
    path = own / place
    path.chmod(path.stat().st_mode | 0o002)
    assert check(profiles=(own,)) == "POLICY_WRITABLE"


@pytest.mark.parametrize("key", ["file", "module", "pin"])
def test_what_decides_about_the_logs_key(key: str, own: Path) -> None:
    paths = {name: str(write(own, name, 0o600)) for name in ("file", "module", "pin")}
    token = {"token": "t", "key": "k", "module": paths["module"], "pin": {"file": paths["pin"]}}
    where = {"file": paths["file"]} if key == "file" else {"pkcs11": token}
    more: dict[str, Any] = {"record": {"origin": "log.example.com", "key": where}}
    assert check(**more) == ""
    Path(paths[key]).chmod(0o622)
    assert check(**more) == "POLICY_WRITABLE"


@pytest.mark.parametrize("key", ["file", "command", "ca"])
def test_what_decides_about_secrets(key: str, own: Path) -> None:
    path = write(own, "x", 0o700)
    more: dict[str, Any] = {"secrets": {"s": {"file": str(path)}}}
    if key == "command":
        more = {"secrets": {"s": {"command": [str(path), "y"]}}}
    if key == "ca":
        more = {"egress": {"ca": str(path)}}
    assert check(**more) == ""
    path.chmod(0o722)
    assert check(**more) == "POLICY_WRITABLE"


@pytest.mark.parametrize("kind", ["file", "command"])
def test_witnesses(kind: str, own: Path) -> None:
    path = write(own, "w/x", 0o700)
    more = {"witnesses": [{"file": str(path)} if kind == "file" else {"command": [str(path)]}]}
    assert check(**more) == ""
    (path.parent if kind == "file" else path).chmod(0o722)
    assert check(**more) == "POLICY_WRITABLE"


@pytest.mark.parametrize("key", ["witnesses", "sinks"])
def test_nobody_else_can_make_a_folder_that_is_written(key: str, own: Path) -> None:
    """In /tmp, say: it is sticky, and who comes first there has the folder, or has it elsewhere."""
    path = str(own / "not" / "yet" / "x")
    sinks = {"archive": {"type": "file", "path": path}}
    more: dict[str, Any] = {key: sinks if key == "sinks" else [{"file": path}]}
    assert check(**more) == ""
    own.chmod(0o1777)
    assert check(**more) == "POLICY_WRITABLE"
    (own / "not" / "yet").mkdir(parents=True)
    assert check(**more) == ""


def test_the_shipped_profiles_pass() -> None:
    assert check(profiles=(shipped_profiles(),)) == ""


def test_somebody_elses(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(own, "config.yaml")
    trusted = frozenset({ME + 1})
    with pytest.raises(ProfileError) as caught:
        guarded.require_unwritable(path, trusted)
    assert caught.value.reason == "POLICY_WRITABLE"
    assert caught.value.metadata["path"] == str(path)


def test_the_owner_of_the_program_is_trusted(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout belongs to whoever made it, and root runs it."""
    path = write(own, "config.yaml")
    seen: list[frozenset[int]] = []
    monkeypatch.setattr(guarded, "require_unwritable", lambda _, trusted: seen.append(trusted))
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(guarded, "PROGRAM", own)
    assert check(source=path) == ""
    assert seen == [frozenset({0, 4242, ME})]


def group(name: str, *members: str) -> Callable[[int], grp.struct_group]:
    return lambda gid: grp.struct_group((name, "x", gid, list(members)))


@pytest.mark.parametrize(
    ("name", "members", "reason"),
    [
        ("alice", (), ""),
        ("alice", ("alice",), ""),
        ("alice", ("alice", "bob"), "POLICY_WRITABLE"),
        ("users", (), "POLICY_WRITABLE"),
    ],
)
def test_a_private_group_may_write(
    name: str, members: tuple[str, ...], reason: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's umask for users is 002 where groups are private: a checkout is group-writable."""
    user = pwd.struct_passwd(("alice", "x", ME, 1000, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(grp, "getgrgid", group(name, *members))
    assert check(source=write(own, "config.yaml", 0o664)) == reason


def test_a_group_without_a_name_may_not(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(gid: int) -> grp.struct_group:
        raise KeyError(gid)

    monkeypatch.setattr(grp, "getgrgid", none)
    assert check(source=write(own, "config.yaml", 0o664)) == "POLICY_WRITABLE"


@pytest.mark.parametrize(
    ("which", "mode", "reason"),
    [
        ("key", 0o600, ""),
        ("key", 0o640, ""),  # Debian's ssl-cert group
        ("key", 0o644, "TLS_KEY_EXPOSED"),
        ("key", 0o602, "POLICY_WRITABLE"),
        ("cert", 0o644, ""),
        ("cert", 0o646, "POLICY_WRITABLE"),
        ("client_ca", 0o646, "POLICY_WRITABLE"),
    ],
)
def test_tls(which: str, mode: int, reason: str, own: Path) -> None:
    tls = {name: str(write(own, name, 0o600)) for name in ("cert", "key", "client_ca")}
    (own / which).chmod(mode)
    assert check(tls=tls) == reason


@pytest.mark.parametrize("key", ["token", "command", "ca", "cert", "key", "path"])
def test_sinks(key: str, own: Path) -> None:
    secret, tls = {"file": str(write(own, "token", 0o600))}, {"ca": str(write(own, "ca"))}
    tls |= {"cert": str(write(own, "cert")), "key": str(write(own, "key", 0o600))}
    log = own / "log"
    log.mkdir(mode=0o755)
    program = write(own, "command", 0o755)
    splunk = {"type": "splunk", "url": "https://a.example.com", "tls": tls}
    sinks = {
        "a": {**splunk, "token": secret},
        "b": {**splunk, "token": {"command": [str(program)]}},
        "c": {"type": "file", "path": str(log / "out")},
    }
    assert check(sinks=sinks) == ""
    (log if key == "path" else own / key).chmod(0o777)
    assert check(sinks=sinks) == "POLICY_WRITABLE"


def test_a_key_of_a_sink_that_all_can_read(own: Path) -> None:
    tls = {name: str(write(own, name)) for name in ("ca", "cert", "key")}
    sink = {"type": "relp", "address": "a.example.com:1", "tls": tls}
    assert check(sinks={"a": sink}) == "TLS_KEY_EXPOSED"
