"""The guard around real sandboxes, inside a virtual machine whose kernel has BPF LSM.

What the programs get and what is on record counts. As many questions as can be are asked of one
call: a call takes seconds where there is no KVM.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from supervisor.bpf.guard import GUARD_PROGRAMS
from supervisor.call.events import Denied, Wall
from supervisor.call.outcome import Exited, Failed, Interrupted
from supervisor.cli import story
from supervisor.client import FinishedCall
from supervisor.oci.images import ImageStore
from tests.support.daemon import Daemon
from tests.support.following import end_of, is_started, until, wait_for
from tests.support.images import make_layout, make_root
from tests.support.profiles import with_profiles
from tests.vm.guard_attacks import LOADER, beginning, in_each, program

EPERM, EACCES, NOT_MAPPED = 1, 13, 127
START_S = 240.0
"""Without KVM, and with the host's processors shared."""

FOLDERS = ("/work", "/tmp", "/dev/shm")
MEMFD = """require: [guard]
syscalls:
  allow: [{name: memfd_create, why: A test of the wall behind.}]
"""
GUARDED = "require: [guard]\n"
RULE = "programs: from the read-only image only"
FLOOD = 300


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    profiles = tmp_path_factory.mktemp("profiles")
    state = tmp_path_factory.mktemp("state")
    texts = {"guarded": GUARDED, "memory": MEMFD, "in-crun": f"{GUARDED}runtime: crun\n"}
    config = with_profiles(profiles, **texts)
    with Daemon(state, config=config) as one:
        layout = make_layout(make_root(profiles / "image"), profiles / "layout")
        image = ImageStore(one.state).import_layout(layout, "tiny")
        source = f"image: oci:{image.name}@sha256:{image.digest}\n"
        with_profiles(profiles, image=GUARDED + source)
        one.start(wait=False)
        one.wait_until_serving(START_S)
        yield one
        assert one.stop() == 0, one.tail()
        assert one.leftovers() == []


def sandboxed(daemon: Daemon, code: str, profile: str = "guarded") -> FinishedCall:
    return daemon.client.run(["python3", "-c", code], profile=profile)


def told(call: FinishedCall) -> list[tuple[Wall, str, str, int]]:
    return [(one.wall, one.name, one.detail, one.count) for one in call.denials]


def test_a_program_that_is_written_does_not_run(daemon: Daemon) -> None:
    call = sandboxed(daemon, in_each("exec", FOLDERS))
    assert call.stdout == b"%d\n" % EACCES * len(FOLDERS)
    assert told(call) == [
        (Wall.PROGRAM, "exec", f"{folder}/copied: a noexec mount", 1) for folder in FOLDERS
    ]
    assert {(one.rule, one.program) for one in call.denials} == {(RULE, b"python3")}


def test_it_does_not_run_by_a_number_with_high_bits(daemon: Daemon) -> None:
    call = sandboxed(daemon, program("high bits"))
    assert call.stdout == b"%d\n" % EACCES
    assert told(call) == [(Wall.PROGRAM, "exec", "/work/copied: a noexec mount", 1)]


@pytest.mark.parametrize("profile", ["guarded", "in-crun"])
def test_the_loader_does_not_run_it(
    daemon: Daemon, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call = sandboxed(daemon, in_each("loader", FOLDERS), profile)
    assert call.stdout == b"%d\n" % NOT_MAPPED * len(FOLDERS)
    assert told(call) == [(Wall.PROGRAM, "mmap", f"{folder}/copied", 1) for folder in FOLDERS]
    story.tell(daemon.client.record(call.call_id))  # what `stockade audit show` prints
    assert "mmap(/work/copied)" in capsys.readouterr().out


def test_the_loader_runs_what_is_of_the_image(daemon: Daemon) -> None:
    call = daemon.client.run([LOADER, "/usr/bin/true"], profile="guarded")
    assert (call.outcome, call.denials) == (Exited(code=0), ())


def test_a_program_in_memory_does_not_run(daemon: Daemon) -> None:
    call = sandboxed(daemon, program("memfd"), "memory")
    assert call.stdout == b"%d\n" % EPERM
    assert told(call) == [(Wall.PROGRAM, "exec", "memfd:hidden: a file in memory", 1)]


def test_a_flood_is_folded_and_complete(daemon: Daemon) -> None:
    """By one process: where it is not denied, it is another program from then on."""
    code = beginning() + (
        f"path, denied = copy(FOLDER), 0\nfor _ in range({FLOOD}):\n"
        "    try: os.execv(path, [path])\n    except PermissionError: denied += 1\nprint(denied)\n"
    )
    call = sandboxed(daemon, code)
    assert call.stdout == b"%d\n" % FLOOD
    assert {(one.name, one.detail) for one in call.denials} == {
        ("exec", "/work/copied: a noexec mount")
    }
    assert sum(one.count for one in call.denials) == FLOOD
    assert len(call.denials) < FLOOD / 2


HONEST = {
    "python": ["python3", "-c", "import ssl, sqlite3, ctypes; print('done')"],
    "shell": ["sh", "-c", "echo done | sed 's/x/y/' | awk '{ print $1 }'"],
    "node": ["node", "-e", "for (let i = 0; i < 1e5; i++) Math.sqrt(i); console.log('done')"],
}


@pytest.mark.parametrize("profile", HONEST)
def test_honest_work_runs(daemon: Daemon, profile: str) -> None:
    call = daemon.client.run(HONEST[profile], profile=profile)
    assert (call.stdout, call.outcome, told(call)) == (b"done\n", Exited(code=0), []), call.stderr


def test_programs_of_an_image_run(daemon: Daemon) -> None:
    """It is an overlay: its files are mapped through it, and lie elsewhere."""
    call = daemon.client.run(["/bin/hello"], profile="image")
    assert call.stdout.startswith(b"of the image\n"), call.stderr
    assert (call.outcome, told(call)) == (Exited(code=0), [])


def test_what_is_built_runs_where_the_profile_says_and_nowhere_else(daemon: Daemon) -> None:
    build = "echo 'int main(void) { return 7; }' >a.c && gcc a.c || exit; ./a.out; echo $?"
    moved = "cp a.out /tmp && exec /tmp/a.out"
    call = daemon.client.run(["sh", "-c", f"{build}; {moved}"], profile="build")
    assert call.stdout == b"7\n", call.stderr
    assert told(call) == [(Wall.PROGRAM, "exec", "/tmp/a.out: a noexec mount", 1)]


def test_the_next_daemon_takes_it_over(daemon: Daemon) -> None:
    code = f"{program('loader')}\nimport time; time.sleep(600)"
    with daemon.client.execute(["python3", "-c", code], profile="guarded") as execution:
        until(execution, lambda event: isinstance(event.event, Denied))
        daemon.kill()
    daemon.start(wait=False)
    daemon.wait_until_serving(START_S)
    assert "took over the probes" in daemon.log.read_text()
    # The kernel's counters have the canary's denials too, and know no path: they say nothing new.
    found = daemon.client.get(execution.call_id)
    assert found.finished is not None
    assert isinstance(found.finished.outcome, Interrupted)
    assert found.finished.denials == 1
    call = sandboxed(daemon, program("loader"))
    assert told(call) == [(Wall.PROGRAM, "mmap", "/work/copied", 1)]


def test_a_guard_that_is_taken_away_ends_calls(daemon: Daemon) -> None:
    [folder] = daemon.runtime.glob("*/bpf/v*/links")
    assert {one.name for one in folder.iterdir()} >= set(GUARD_PROGRAMS)
    with daemon.client.execute(["sleep", "600"], profile="base") as execution:
        until(execution, is_started)
        (folder / "guard_mmap").unlink()
        outcome = end_of(execution).outcome
    assert isinstance(outcome, Failed)
    assert "guard_mmap" in outcome.message
    wait_for(lambda: not daemon.serving(), START_S)
    assert os.access(folder / "guard_exec", os.F_OK)
