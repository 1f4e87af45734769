"""Our standard streams, where whoever started us left them closed, or full.

Imports nothing but the standard library: it is what runs first.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import IO, Any

EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
"""What a shell answers for SIGPIPE, which Python ignores: 128 + 13."""

STREAMS = ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY))


def reopen() -> None:
    """Put /dev/null where descriptors 0 to 2 are closed: Python has no stream there, and the next
    file or socket that is opened would get the number and what is written to it."""
    for descriptor, flags in STREAMS:
        if not _is_open(descriptor):
            # The lowest free number, and all below it are taken.
            os.open(os.devnull, flags)
            os.set_inheritable(descriptor, True)
    sys.stdin = sys.stdin or os.fdopen(0, "r", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def discard(stream: IO[Any]) -> None:
    """Let what is still buffered, and all that follows, go nowhere: Python flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def asks() -> bool:
    """Say whether there is somebody at a terminal who could be asked something."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def settle() -> None:
    """Write what is still buffered, and let go nowhere what cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            discard(stream)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return False
    return True
