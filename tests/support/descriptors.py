"""A process without a free descriptor, for as long as a test wants it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator

SOFT_MAX = 512


@contextlib.contextmanager
def no_descriptors(*, left: int = 0) -> Iterator[None]:
    """Have every descriptor of this process in use but `left` of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(SOFT_MAX, soft), hard))
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                if error.errno != errno.EMFILE:
                    raise
                break
        for _ in range(left):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
