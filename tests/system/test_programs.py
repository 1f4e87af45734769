"""Ordinary programs run unhindered under the shipped profiles: no failure and not one denial."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited
from supervisor.client import FinishedCall
from tests.support.daemon import Daemon, running_daemon

PROGRAMS = Path(__file__).parent / "programs"


def programs(name: str) -> dict[str, str]:
    """Read a file of small programs; `=== NAME` begins each."""
    text = (PROGRAMS / f"{name}.txt").read_text()
    parts = (part.partition("\n") for part in text.split("=== ")[1:])
    return {name: body.strip() for name, _, body in parts}


PYTHON, NODE, SHELL, BUILD = map(programs, ("python", "node", "shell", "build"))
HELLO = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *p) { *(int *)p = 42; return p; }
int main(void) {
    pthread_t t; int n = 0; char *big = malloc(64 << 20);
    memset(big, 1, 64 << 20);
    if (pthread_create(&t, NULL, work, &n) || pthread_join(t, NULL)) return 1;
    pid_t p = fork(); if (p == 0) _exit(7);
    int s; waitpid(p, &s, 0);
    printf("%d %d\\n", n, WEXITSTATUS(s)); return 0;
}
"""
MAKEFILE = "CFLAGS = -O2 -pthread\nall: hello\n\t./hello\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


def require_unhindered(call: FinishedCall) -> None:
    told = [(denied.name, denied.detail, denied.program, denied.count) for denied in call.denials]
    assert not told, call.stderr
    assert call.finished.denials == 0
    assert call.outcome == Exited(code=0), (call.stdout, call.stderr)


@pytest.mark.parametrize("name", PYTHON)
def test_python(daemon: Daemon, name: str) -> None:
    call = daemon.client.run(["python3", "-c", PYTHON[name]], profile="python", cwd="/work")
    require_unhindered(call)
    assert call.stdout


@pytest.mark.parametrize("name", NODE)
def test_node(daemon: Daemon, name: str) -> None:
    if shutil.which("node") is None:
        pytest.skip("this host has no node")
    call = daemon.client.run(["node", "-e", NODE[name]], profile="node", stdin=b"line\n")
    require_unhindered(call)
    assert call.stdout


@pytest.mark.parametrize("name", SHELL)
def test_shell(daemon: Daemon, name: str) -> None:
    require_unhindered(daemon.client.run(["bash", "-c", SHELL[name]], profile="shell"))


@pytest.mark.parametrize("name", BUILD)
def test_build(daemon: Daemon, name: str) -> None:
    files = {"hello.c": HELLO.encode(), "Makefile": MAKEFILE.encode()}
    call = daemon.client.run(["sh", "-c", BUILD[name]], profile="build", files=files)
    require_unhindered(call)
    assert call.stdout
