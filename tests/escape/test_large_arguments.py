"""Arguments and environment as large as may be, and of every byte there is."""

from __future__ import annotations

import pytest

from supervisor.call.outcome import Failed
from supervisor.call.types import ARG_BYTES_MAX, ARGV_BYTES_MAX
from supervisor.errors import InvalidRequest
from tests.support.daemon import Daemon

SHOW = "import os, sys; d = os.fsencode(sys.argv[1]); print(len(d), set(d), len(sys.argv))"
PLAIN = pytest.mark.parametrize("byte", [b"a", b"\n"], ids=["a", "newline"])
ESCAPED = pytest.mark.parametrize("byte", [b"%", b"\xff"], ids=["percent", "ff"])


@PLAIN
def test_the_largest_argument(daemon: Daemon, byte: bytes) -> None:
    argument = byte * ARG_BYTES_MAX
    call = daemon.client.run(["python3", "-c", SHOW, argument], profile="python")
    assert call.stdout.decode() == f"{ARG_BYTES_MAX} {{{byte[0]}}} 2\n", call.outcome


@PLAIN
def test_as_many_as_may_be(daemon: Daemon, byte: bytes) -> None:
    count = ARGV_BYTES_MAX // 1000 - 60
    arguments = [byte * 999] * count
    call = daemon.client.run(["python3", "-c", SHOW, *arguments], profile="python")
    assert call.stdout.decode() == f"999 {{{byte[0]}}} {count + 1}\n", call.outcome


@ESCAPED
def test_what_the_init_cannot_take_is_refused(daemon: Daemon, byte: bytes) -> None:
    """An OCI spec is text: some bytes take three there, and then there is less room."""
    third = ARG_BYTES_MAX // 3
    call = daemon.client.run(["python3", "-c", SHOW, byte * third], profile="python")
    assert call.stdout.decode() == f"{third} {{{byte[0]}}} 2\n", call.outcome
    call = daemon.client.run(["python3", "-c", SHOW, byte * (third + 1)], profile="python")
    assert isinstance(call.outcome, Failed)
    assert call.outcome.reason == "ARGV_TOO_LONG"


@ESCAPED
def test_as_many_as_the_init_cannot_take(daemon: Daemon, byte: bytes) -> None:
    call = daemon.client.run(["echo", *[byte * 999] * 1000], profile="python")
    assert isinstance(call.outcome, Failed)
    assert call.outcome.reason == "ARGV_TOO_LONG"


def test_one_more_byte_is_refused(daemon: Daemon) -> None:
    with pytest.raises(InvalidRequest) as caught:
        daemon.client.run(["echo", b"a" * (ARG_BYTES_MAX + 1)], profile="python")
    assert caught.value.reason == "ARGV_TOO_LONG"


def test_every_byte_arrives(daemon: Daemon) -> None:
    every = bytes(range(1, 256))
    script = "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1]) + os.environb[b'E'])"
    call = daemon.client.run(["python3", "-c", script, every], profile="python", env={"E": every})
    assert call.stdout == every + every
