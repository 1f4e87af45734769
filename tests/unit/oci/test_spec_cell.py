"""The sandbox's init, on this side of the walls: ends, signals, orphans, and wrong arguments."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.oci.spec import Program
from tests.support.following import wait_for
from tests.unit.oci.test_spec import built_cell

USAGE, NOT_RUN, NOT_FOUND = 125, 126, 127
SH = "/bin/sh"
STOPPING = {signal.SIGKILL, signal.SIGSTOP}
INTERNAL = {32, 33}
"""glibc's own: nothing can be done with them but to lose them."""


@dataclass
class Running:
    """A cell that runs: its process, and the end of its status pipe that is ours."""

    process: subprocess.Popen[bytes]
    status: int

    def word(self) -> str:
        """Read the init's word to the end, and wait for it."""
        self.process.wait(30)
        with os.fdopen(os.dup(self.status), "rb") as status:
            return status.read().decode()


@contextlib.contextmanager
def running(
    *arguments: str | bytes, wrapper: tuple[str, ...] = (), path: str = "/usr/bin:/bin"
) -> Iterator[Running]:
    """Run cell with these arguments after the status descriptor."""
    read, write = os.pipe()
    command = [*wrapper, built_cell(), str(write), *arguments]
    process = subprocess.Popen(
        command, pass_fds=(write,), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", "CELL_PATH": path},
    )  # fmt: skip
    os.close(write)
    with process:
        try:
            yield Running(process, read)
        finally:
            process.kill()
            os.close(read)


def told(*arguments: str | bytes, path: str = "/usr/bin:/bin") -> tuple[str, int]:
    """Give the init's word and its exit code."""
    with running(*arguments, path=path) as cell:
        return cell.word(), cell.process.returncode


def shell(script: str) -> tuple[str, int]:
    return told("/", SH, "-c", script)


@pytest.mark.parametrize("code", [0, 1, 42, 125, 126, 127, 255])
def test_exit_codes(code: int) -> None:
    assert shell(f"exit {code}") == (f"ready\nexit {code}\n", code)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV])
def test_a_program_that_a_signal_ended(number: int) -> None:
    word, code = shell(f"ulimit -c 0; kill -{int(number)} $$")
    assert word == f"ready\nsignal {int(number)} 0\n"
    assert code == 128 + number


def test_an_exec_that_failed(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    assert told("/", "/no/such/program") == ("ready\nexec 2\n", NOT_FOUND)
    assert told("/", str(plain)) == ("ready\nexec 13\n", NOT_RUN)
    assert told("/", str(tmp_path)) == ("ready\nexec 13\n", NOT_RUN)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert told("/no/such/folder", SH) == ("ready\nchdir 2\n", NOT_FOUND)
    assert told(str(plain), SH) == ("ready\nchdir 20\n", NOT_RUN)


def test_a_program_is_searched_in_its_own_path(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    assert told("/", "program", path=str(tmp_path)) == ("ready\nexit 9\n", 9)
    assert told("/", "program", path="/no/such/folder") == ("ready\nexec 2\n", NOT_FOUND)


@pytest.mark.parametrize(
    ("said", "expected"),
    [(b"1", ("ready\nexit 9\n", 9)), (b"", ("", USAGE))],
    ids=["let go", "the daemon is gone"],
)
def test_a_gate(said: bytes, expected: tuple[str, int]) -> None:
    """Until a byte comes nothing is said, and nothing runs; the program does not get the gate."""
    status, gate = os.pipe(), os.pipe()
    script = f"test -e /proc/self/fd/{gate[0]} && exit 1; exit 9"
    command = [built_cell(), f"{status[1]},{gate[0]}", "/", SH, "-c", script]
    with subprocess.Popen(
        command, pass_fds=(status[1], gate[0]), stdin=subprocess.DEVNULL,
        env={"CELL_PATH": "/usr/bin:/bin"},
    ) as process:  # fmt: skip
        os.close(status[1])
        os.close(gate[0])
        wait_for(lambda: f"S {os.getpid()}" in Path(f"/proc/{process.pid}/stat").read_text(), 30)
        os.set_blocking(status[0], False)
        with pytest.raises(BlockingIOError):
            os.read(status[0], 1)
        os.write(gate[1], said)
        os.close(gate[1])
        process.wait(30)
        word = os.read(status[0], 100).decode()
        os.close(status[0])
    assert (word, process.returncode) == expected


def test_a_terminal() -> None:
    """The program's streams, and its session's; of what cell had it gets nothing."""
    status, (master, peer) = os.pipe(), os.openpty()
    script = "tty; test -t 0 && test -t 1 && test -t 2 && : >/dev/tty && ls -l /proc/self/fd"
    command = [built_cell(), f"{status[1]}:{os.ttyname(peer)}", "/", SH, "-c", script]
    with subprocess.Popen(
        command, pass_fds=(status[1],), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={"CELL_PATH": "/usr/bin:/bin"},
    ) as process:  # fmt: skip
        os.close(status[1])
        assert process.stdout is not None
        assert process.stdout.read() == b""
        process.wait(30)
        word = os.read(status[0], 100).decode()
        os.close(status[0])
    wrote = os.read(master, 4096).decode()
    own = os.ttyname(peer)
    os.close(master)
    os.close(peer)
    assert word == "ready\nexit 0\n", wrote
    assert wrote.startswith(f"{own}\r\n")
    assert wrote.count(f"-> {own}\r\n") == 3
    assert "pipe:" not in wrote


@pytest.mark.parametrize(("path", "number"), [("/no/such/terminal", 2), ("/", 21)])
def test_a_terminal_that_is_none(path: str, number: int) -> None:
    read, write = os.pipe()
    command = [built_cell(), f"{write}:{path}", "/", SH, "-c", "exit 0"]
    done = subprocess.run(command, pass_fds=(write,), env={"CELL_PATH": "/bin"}, check=False)
    os.close(write)
    with os.fdopen(read, "rb") as status:
        assert status.read().decode() == f"ready\nterminal {number}\n"
    assert done.returncode in (NOT_FOUND, NOT_RUN)


WRONG = {
    "nothing": (),
    "no program": ("/",),
    "half an escape": ("/", SH, "%4"),
    "no escape": ("/", SH, "%"),
    "lower case": ("/", SH, "%ff"),
    "not hexadecimal": ("/", "%GG"),
    "in the directory": ("/%", SH),
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=list(WRONG))
def test_wrong_arguments_start_nothing(arguments: tuple[str, ...]) -> None:
    assert told(*arguments) == ("", USAGE)


def test_half_an_escape_in_a_variable_starts_nothing() -> None:
    assert told("/", SH, "-c", "exit 0", path="/bin%4") == ("", USAGE)


def test_a_status_descriptor_that_is_not_open() -> None:
    done = subprocess.run([built_cell(), "99", "/", SH, "-c", "echo ran"], check=False,
                          capture_output=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (USAGE, b"")


@given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"%")), max_size=6))
def test_garbage_never_crashes_it(arguments: list[bytes]) -> None:
    with running("/no/such/folder", *arguments) as cell:
        cell.word()
        assert cell.process.returncode in (USAGE, NOT_RUN, NOT_FOUND)


@pytest.mark.parametrize(
    "number", sorted(set(range(1, 65)) - STOPPING - INTERNAL - {signal.SIGCHLD, signal.SIGCONT})
)
def test_every_signal_is_passed_on(number: int) -> None:
    code = f"import signal; print('here', flush=True); print(int(signal.sigwait([{number}])))"
    block = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [{number}]); {code}"
    with running("/", "/usr/bin/python3", "-c", block) as cell:
        assert cell.process.stdout is not None
        assert cell.process.stdout.readline() == b"here\n"
        cell.process.send_signal(number)
        assert cell.word() == "ready\nexit 0\n"
        assert int(cell.process.stdout.read()) == number


def test_the_program_has_a_session_default_signals_and_no_status_descriptor() -> None:
    code = (
        "import os\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "status = dict(line.split(':\\t', 1) for line in lines)\n"
        "print(os.getsid(0) == os.getpid(), int(status['SigBlk'], 16))\n"
        "print(*sorted(os.listdir('/proc/self/fd')))\n"
    )
    with running("/", "/usr/bin/python3", "-I", "-c", code) as cell:
        assert cell.process.stdout is not None
        said = cell.process.stdout.read()
        assert cell.word() == "ready\nexit 0\n"
    assert said == b"True 0\n0 1 2 3\n"  # 3 is the folder that was listed


def test_a_program_that_closes_its_output_is_seen_to_have() -> None:
    with running("/", SH, "-c", "exec >&-; exec sleep 600") as cell:
        assert cell.process.stdout is not None
        assert cell.process.stdout.read() == b""
        assert cell.process.poll() is None
        cell.process.terminate()
        assert cell.word() == f"ready\nsignal {int(signal.SIGTERM)} 0\n"


PID_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.mark.root
def test_orphans_are_reaped_while_the_program_lives() -> None:
    script = (
        "for i in 1 2 3 4 5; do (sh -c 'sleep 0.05 &') ; done; sleep 0.5; "
        "grep -l '^State:.*Z' /proc/[0-9]*/status | wc -l; "
        "tr '\\0' ' ' < /proc/1/cmdline | cut -c1-1"
    )
    with running("/", SH, "-c", script, wrapper=PID_NAMESPACE) as cell:
        assert cell.process.stdout is not None
        said = cell.process.stdout.read().split()
        assert cell.word() == "ready\nexit 0\n"
    assert said == [b"0", b"/"]


@pytest.mark.root
def test_what_is_left_ends_with_the_program() -> None:
    script = (
        "setsid sleep 600 & setsid sh -c 'trap \"\" TERM HUP; sleep 600' & echo started; exit 4"
    )
    with running("/", SH, "-c", script, wrapper=PID_NAMESPACE) as cell:
        assert cell.process.stdout is not None
        # The pipe ends only when nobody holds it any more: both orphans are dead.
        assert cell.process.stdout.read() == b"started\n"
        assert cell.word() == "ready\nexit 4\n"


@pytest.mark.root
def test_the_program_cannot_look_into_its_init() -> None:
    script = "cat /proc/1/environ; ls /proc/1/fd; readlink /proc/1/exe; exit 5"
    ordinary = (*PID_NAMESPACE, "setpriv", "--reuid=4242", "--regid=4242", "--clear-groups")
    with running("/", SH, "-c", script, wrapper=ordinary) as cell:
        assert cell.process.stdout is not None
        assert cell.process.stdout.read() == b""
        assert cell.word() == "ready\nexit 5\n"


@pytest.mark.root
def test_a_call_ends_with_its_daemon() -> None:
    """Nobody would record or bound it any more."""
    script = "echo started; trap '' TERM HUP PIPE; sleep 600"
    with running("/", SH, "-c", script, wrapper=PID_NAMESPACE) as cell:
        assert cell.process.stdout is not None
        assert cell.process.stdout.readline() == b"started\n"
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), cell.status)
        # The pipe ends only when nobody holds it any more.
        assert cell.process.stdout.read() == b""


def test_variables_are_no_arguments() -> None:
    """Every user of the host can read the arguments of every process."""
    program = Program(argv=(b"/bin/true",), env={"TOKEN": b"hidden"}, working_directory=b"/")
    arguments, variables = program.for_cell()
    assert not any("hidden" in str(argument) for argument in arguments)
    assert variables == ["CELL_TOKEN=hidden"]
