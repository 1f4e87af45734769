"""Each key of a profile, by its effect on a real call: with the key, and without it.

What a test here shows is only that the key is wired; how far it holds is shown elsewhere. The list
of keys is made by tests/style/test_keys.py from the schema, so that none is forgotten.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited, LimitExceeded, OutOfMemory, Stopped, TimedOut
from supervisor.call.types import Stream
from supervisor.client import FinishedCall
from supervisor.errors import HostError, NotFound, ProfileError
from supervisor.linux import cgroup
from supervisor.profile.load import ProfileSet
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import SHIPPED, with_profiles

SHORT = "limits: {{{}}}"
WRITE = "files: {{write: [{}]}}"
PARENT = (
    "profile: parent\nextends: python\nwhy: What its child drops.\n"
    "files:\n  read: [{path: /opt/stockade-test-keys, why: A test}]\n"
    "  write: [{path: /more, size: 1MiB}]\n"
    "syscalls: {allow: ['@network-io'], kill: [ptrace]}\nenv: {MARK: parent}\n"
)
CHILD = "profile: child\nextends: parent\n{}why: Drops one thing.\n"
DROPS = {
    "drop-read": "drop: {files: {read: [/opt/stockade-test-keys]}}\n",
    "drop-write": "drop: {files: {write: [/more]}}\n",
    "drop-allow": "drop: {syscalls: {allow: ['@network-io']}}\n",
    "drop-kill": "drop: {syscalls: {kill: [ptrace]}}\n",
    "drop-env": "drop: {env: [MARK]}\n",
}
BODIES = {
    "plain": "",
    "in-crun": "runtime: crun",
    "pythonic": "profile: pythonic\nextends: python\nwhy: For one test.\n",
    "fragmented": "profile: fragmented\nextends: base\nuse: [scrap]\nwhy: For one test.\n",
    "from-a-folder": "image: dir:/opt/stockade-test-keys/image",
    "reading": "files: {read: [{path: /opt/stockade-test-keys, why: A test}]}",
    "small-work": WRITE.format("{path: /work, size: 64KiB}"),
    "more-writable": WRITE.format("{path: /more, size: 1MiB}"),
    "runs-work": WRITE.format("{path: /work, size: 8MiB, exec: true, why: A test}"),
    "sockets": "syscalls: {allow: ['@network-io']}",
    "memfd": "syscalls: {allow: [{name: memfd_create, why: A test}]}",
    "kills": "syscalls: {kill: [ptrace]}",
    "marked": "env: {MARK: here}",
    "wall": SHORT.format("wall: 1s"),
    "cpu": SHORT.format("cpu: 1s"),
    "memory": SHORT.format("memory: 32MiB"),
    "pids": SHORT.format("pids: 4"),
    "descriptors": SHORT.format("files: 16"),
    "output": SHORT.format("output: 10B"),
    "no-stdin": "record: {stdin: digest}",
    "no-stdout": "record: {stdout: digest}",
    "no-stderr": "record: {stderr: digest}",
    "private": "record: {redact: pii}",
    "as-it-was": "record: {redact: {off: A test}}",
    "parent": PARENT,
    **{name: CHILD.replace("child", name).format(drop) for name, drop in DROPS.items()},
}
PTRACE = "import ctypes; print(ctypes.CDLL(None).ptrace(0, 0, 0, 0))"
SOCKET = "import socket; socket.socket(); print('made')"
MEMFD = "import os; os.memfd_create('x'); print('made')"
FORKS = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait; echo all"
NAME = """#include <stdio.h>
int main(void) { char line[80]; return !fgets(line, 80, fopen("/etc/name", "r")) || !puts(line); }
"""
OPENS = "import os; [os.open('/', 0) for _ in range(40)]; print('opened')"


@pytest.fixture(scope="module")
def shown() -> Iterator[Path]:
    """Make a folder of the host that profiles name, with a root for a sandbox in it."""
    folder = Path("/opt/stockade-test-keys")
    image = folder / "image"
    image.mkdir(parents=True)
    try:
        (folder / "seen").write_text("the host's\n")
        for name in ("usr", "etc", "proc", "dev", "tmp", "work"):
            (image / name).mkdir()
        source = image.parent / "name.c"
        source.write_text(NAME)
        command = ["gcc", "-static", "-o", image / "usr" / "name", source]
        subprocess.run(command, check=True)
        (image / "etc/name").write_text("the image's")
        yield folder
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, shown: Path) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("profiles")
    config = with_profiles(folder, **BODIES)
    (folder / "fragments").mkdir()
    scrap = "fragment: scrap\nwhy: For one test.\nenv: {MARK: scrap}\n"
    (folder / "fragments" / "scrap.yaml").write_text(scrap)
    with running_daemon(config=config) as running:
        yield running


def sh(daemon: Daemon, profile: str, script: str, **options: object) -> FinishedCall:
    return daemon.client.run(["sh", "-c", script], profile=profile, **options)  # type: ignore[arg-type]


def python(daemon: Daemon, profile: str, code: str) -> FinishedCall:
    return daemon.client.run(["python3", "-c", code], profile=profile)


def mark(daemon: Daemon, profile: str) -> bytes:
    return sh(daemon, profile, "echo $MARK").stdout.strip()


def load(folder: Path, text: str, *, name: str = "one") -> None:
    """Load one file of a folder beside the shipped ones, as the daemon does."""
    (folder / f"{name}.yaml").write_text(text)
    ProfileSet.load([SHIPPED, folder]).effective(name)


@pytest.mark.key("profile")
def test_a_profile_is_called_by_its_name(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.client.run(["true"], profile="plain").ok
    with pytest.raises(NotFound):
        daemon.client.run(["true"], profile="plainer")
    with pytest.raises(ProfileError, match="other"):
        load(tmp_path, "profile: other\nextends: base\nwhy: Has another's name.\n")


@pytest.mark.key("fragment", "use")
def test_a_fragment_gives_what_is_in_it(daemon: Daemon, tmp_path: Path) -> None:
    assert (mark(daemon, "fragmented"), mark(daemon, "plain")) == (b"scrap", b"")
    (tmp_path / "fragments").mkdir()
    (tmp_path / "fragments" / "one.yaml").write_text("fragment: two\nwhy: Another's name.\n")
    with pytest.raises(ProfileError, match="two"):
        load(tmp_path, "profile: one\nextends: base\nuse: [one]\nwhy: A test.\n")


@pytest.mark.key("extends")
def test_a_child_has_what_its_parent_gives(daemon: Daemon) -> None:
    assert sh(daemon, "pythonic", "echo $PYTHONUNBUFFERED").stdout == b"1\n"
    assert sh(daemon, "plain", "echo $PYTHONUNBUFFERED").stdout == b"\n"


@pytest.mark.key("why", "files.read.why", "files.write.why", "syscalls.allow.why")
@pytest.mark.parametrize(
    "text",
    [
        "profile: one\nextends: base\n",
        "profile: one\nextends: base\nwhy: x\nfiles: {read: [{path: /opt/x}]}\n",
        "profile: one\nextends: base\nwhy: x\n"
        "files: {write: [{path: /work, size: 1MiB, exec: true}]}\n",
        "profile: one\nextends: base\nwhy: x\nsyscalls: {allow: [{name: memfd_create}]}\n",
    ],
)
def test_what_opens_something_needs_a_reason(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProfileError, match="'why' is missing"):
        load(tmp_path, text)


def test_a_reason_is_shown(daemon: Daemon) -> None:
    shown = daemon.command("profile", "show", "reading").stdout
    assert b"For one test." in shown
    assert b"A test" in shown


@pytest.mark.key("runtime")
def test_the_runtime_is_on_record(daemon: Daemon, tmp_path: Path) -> None:
    call = daemon.client.run(["true"], profile="plain")
    [intent] = [e for e in daemon.client.record(call.call_id).entries if e.kind == "intent"]
    assert b'"runtime":"runc version' in intent.json
    with pytest.raises(ProfileError, match="not a runtime"):
        load(tmp_path, "profile: one\nextends: base\nwhy: x\nruntime: rnuc\n")


@pytest.mark.key("runtime")
def test_a_call_runs_in_its_runtime_or_not_at_all(daemon: Daemon) -> None:
    """Where crun does not run it is refused: no other takes its place."""
    if cgroup.detect().pure:
        call = daemon.client.run(["true"], profile="in-crun")
        [intent] = [e for e in daemon.client.record(call.call_id).entries if e.kind == "intent"]
        assert b'"runtime":"crun version' in intent.json
        return
    with pytest.raises(HostError) as caught:
        daemon.client.run(["true"], profile="in-crun")
    assert caught.value.reason == "RUNTIME_NEEDS_CGROUP_V2"
    shown = daemon.command("profile", "explain", "in-crun").stdout
    assert b"crun cannot be had on this host" in b" ".join(shown.split())


@pytest.mark.key("image")
def test_the_image_is_the_root(daemon: Daemon) -> None:
    argv = ["/usr/name"]
    assert daemon.client.run(argv, profile="from-a-folder").stdout == b"the image's\n"
    assert not daemon.client.run(argv, profile="plain").ok


@pytest.mark.key("files.read.path")
def test_a_path_of_the_host_is_seen(daemon: Daemon, shown: Path) -> None:
    script = f"cat {shown}/seen"
    assert sh(daemon, "reading", script).stdout == b"the host's\n"
    assert sh(daemon, "plain", script).stdout == b""


@pytest.mark.key("files.write.path", "files.write.size")
def test_a_writable_mount_is_there_and_has_its_size(daemon: Daemon) -> None:
    assert sh(daemon, "more-writable", "echo x >/more/x && cat /more/x").stdout == b"x\n"
    assert sh(daemon, "plain", "echo x >/more/x && cat /more/x").stdout == b""
    fill = "dd if=/dev/zero of=/work/x bs=1k count=128 2>/dev/null; stat -c %s /work/x"
    assert sh(daemon, "plain", fill).stdout == b"131072\n"
    assert sh(daemon, "small-work", fill).stdout == b"65536\n"


@pytest.mark.key("files.write.exec")
def test_programs_run_from_where_exec_says(daemon: Daemon) -> None:
    script = "cp /usr/bin/true /work/x && chmod +x /work/x && /work/x && echo ran"
    assert sh(daemon, "runs-work", script).stdout == b"ran\n"
    assert sh(daemon, "plain", script).stdout == b""


@pytest.mark.key("syscalls.allow")
def test_a_set_is_allowed(daemon: Daemon) -> None:
    assert python(daemon, "sockets", SOCKET).stdout == b"made\n"
    assert python(daemon, "plain", SOCKET).stdout == b""


@pytest.mark.key("syscalls.allow.name")
def test_a_single_call_is_allowed(daemon: Daemon) -> None:
    assert python(daemon, "memfd", MEMFD).stdout == b"made\n"
    assert python(daemon, "plain", MEMFD).stdout == b""


@pytest.mark.key("syscalls.kill")
def test_a_call_that_makes_it_is_ended(daemon: Daemon) -> None:
    assert python(daemon, "kills", PTRACE).outcome == Stopped(by="daemon", reason="SYSCALL_KILL")
    assert python(daemon, "plain", PTRACE).outcome == Exited(code=0)


@pytest.mark.key("env")
def test_the_environment(daemon: Daemon) -> None:
    assert (mark(daemon, "marked"), mark(daemon, "plain")) == (b"here", b"")


@pytest.mark.key("limits.wall")
def test_the_wall_clock(daemon: Daemon) -> None:
    assert sh(daemon, "wall", "sleep 2").outcome == TimedOut(limit_s=1)
    assert sh(daemon, "plain", "sleep 2").outcome == Exited(code=0)


@pytest.mark.key("limits.cpu")
def test_processor_time(daemon: Daemon) -> None:
    busy = "import time\nwhile time.process_time() < 2: pass"
    ended = python(daemon, "cpu", busy).outcome
    assert isinstance(ended, LimitExceeded)
    assert ended.limit == "cpu"
    assert python(daemon, "plain", busy).outcome == Exited(code=0)


@pytest.mark.key("limits.memory")
def test_memory(daemon: Daemon) -> None:
    large = "x = bytearray(64 << 20); print(len(x))"
    assert isinstance(python(daemon, "memory", large).outcome, OutOfMemory)
    assert python(daemon, "plain", large).outcome == Exited(code=0)


@pytest.mark.key("limits.pids")
def test_processes(daemon: Daemon) -> None:
    assert b"all" not in sh(daemon, "pids", FORKS).stdout
    assert sh(daemon, "plain", FORKS).stdout == b"all\n"


@pytest.mark.key("limits.files")
def test_descriptors(daemon: Daemon) -> None:
    assert python(daemon, "descriptors", OPENS).stdout == b""
    assert python(daemon, "plain", OPENS).stdout == b"opened\n"


@pytest.mark.key("limits.output")
def test_output(daemon: Daemon) -> None:
    ended = sh(daemon, "output", "echo 0123456789abcdef; sleep 1").outcome
    assert isinstance(ended, LimitExceeded)
    assert ended.limit == "output"
    assert sh(daemon, "plain", "echo 0123456789abcdef").outcome == Exited(code=0)


@pytest.mark.key("record.stdin", "record.stdout", "record.stderr")
@pytest.mark.parametrize("stream", Stream)
def test_what_is_stored_of_a_stream(daemon: Daemon, stream: Stream) -> None:
    stored = {}
    for profile in (f"no-{stream.value}", "plain"):
        call = sh(daemon, profile, "cat; echo error >&2", stdin=b"some words\n")
        [summary] = [one for one in call.finished.streams if one.stream is stream]
        assert summary.digest.size_bytes > 0
        stored[profile] = summary.stored_bytes
    assert stored[f"no-{stream.value}"] == 0
    assert stored["plain"] > 0


@pytest.mark.key("record.redact", "record.redact.off")
def test_what_is_redacted(daemon: Daemon) -> None:
    token, mail = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8", "somebody@mail.example.com"
    kept = {}
    for profile in ("plain", "private", "as-it-was"):
        call = sh(daemon, profile, "cat", stdin=f"{token} {mail}\n".encode())
        assert call.stdout == f"{token} {mail}\n".encode()  # what the caller gets is as it was
        stored = b"".join(daemon.client.read_output(call.call_id, Stream.STDOUT)).decode()
        kept[profile] = (token in stored, mail in stored)
        [summary] = [one for one in call.finished.streams if one.stream is Stream.STDOUT]
        assert summary.redactions == 2 - sum(kept[profile])
    assert kept == {
        "plain": (False, True),
        "private": (False, False),
        "as-it-was": (True, True),
    }


@pytest.mark.key("drop.files.read")
def test_a_path_is_dropped(daemon: Daemon, shown: Path) -> None:
    script = f"cat {shown}/seen"
    assert sh(daemon, "parent", script).stdout == b"the host's\n"
    assert sh(daemon, "drop-read", script).stdout == b""


@pytest.mark.key("drop.files.write")
def test_a_writable_mount_is_dropped(daemon: Daemon) -> None:
    script = "echo x >/more/x && cat /more/x"
    assert sh(daemon, "parent", script).stdout == b"x\n"
    assert sh(daemon, "drop-write", script).stdout == b""


@pytest.mark.key("drop.syscalls.allow")
def test_a_set_is_dropped(daemon: Daemon) -> None:
    assert python(daemon, "parent", SOCKET).stdout == b"made\n"
    assert python(daemon, "drop-allow", SOCKET).stdout == b""


@pytest.mark.key("drop.syscalls.kill")
def test_a_kill_is_dropped(daemon: Daemon) -> None:
    assert isinstance(python(daemon, "parent", PTRACE).outcome, Stopped)
    assert python(daemon, "drop-kill", PTRACE).outcome == Exited(code=0)


@pytest.mark.key("drop.env")
def test_a_variable_is_dropped(daemon: Daemon) -> None:
    assert (mark(daemon, "parent"), mark(daemon, "drop-env")) == (b"parent", b"")
