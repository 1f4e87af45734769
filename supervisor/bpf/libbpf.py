"""`libbpf.so.1` by ctypes: one table of symbols, one error path, and the verifier's own words.

libbpf 1.x has a stable ABI of opaque pointers, so nothing here knows a layout of its structures
(systemd loads it the same way). Functions that return a pointer give NULL and set errno; those
that return an int give a negative errno.
"""

from __future__ import annotations

import collections
import ctypes
import errno
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from supervisor.errors import HostError

SONAME = "libbpf.so.1"
VERSION_MAJOR_MIN = 1
LOG_LINES_MAX = 400
"""The last of what libbpf and the verifier say about one object; a whole log has thousands."""

LOG_BYTES_MAX = 1 << 20
"""Of one message; the verifier's log is one."""

LEVEL_DEBUG = 2

_int, _u32, _u64, _size = ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t
_pointer, _text = ctypes.c_void_p, ctypes.c_char_p

SAMPLE = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _size)
"""int (*ring_buffer_sample_fn)(void *ctx, void *data, size_t size)"""

PRINT = ctypes.CFUNCTYPE(_int, _int, _text, _pointer)
"""int (*libbpf_print_fn_t)(enum libbpf_print_level, const char *format, va_list args)"""

SYMBOLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "libbpf_major_version": (_u32, ()),
    "libbpf_version_string": (_text, ()),
    "libbpf_set_print": (_pointer, (PRINT,)),
    "bpf_object__open_file": (_pointer, (_text, _pointer)),
    "bpf_object__load": (_int, (_pointer,)),
    "bpf_object__close": (None, (_pointer,)),
    "bpf_object__next_program": (_pointer, (_pointer, _pointer)),
    "bpf_object__next_map": (_pointer, (_pointer, _pointer)),
    "bpf_program__name": (_text, (_pointer,)),
    "bpf_program__section_name": (_text, (_pointer,)),
    "bpf_program__fd": (_int, (_pointer,)),
    "bpf_program__attach": (_pointer, (_pointer,)),
    "bpf_program__attach_cgroup": (_pointer, (_pointer, _int)),
    "bpf_map__name": (_text, (_pointer,)),
    "bpf_map__fd": (_int, (_pointer,)),
    "bpf_map__reuse_fd": (_int, (_pointer, _int)),
    "bpf_map__initial_value": (_pointer, (_pointer, ctypes.POINTER(_size))),
    "bpf_map__set_initial_value": (_int, (_pointer, _pointer, _size)),
    "bpf_link__fd": (_int, (_pointer,)),
    "bpf_link__pin": (_int, (_pointer, _text)),
    "bpf_link__destroy": (_int, (_pointer,)),
    "bpf_map_create": (_int, (_int, _text, _u32, _u32, _u32, _pointer)),
    "bpf_map_update_elem": (_int, (_int, _pointer, _pointer, _u64)),
    "bpf_map_lookup_elem": (_int, (_int, _pointer, _pointer)),
    "bpf_map_delete_elem": (_int, (_int, _pointer)),
    "bpf_map_get_next_key": (_int, (_int, _pointer, _pointer)),
    "bpf_map_get_fd_by_id": (_int, (_u32,)),
    "libbpf_probe_bpf_prog_type": (_int, (_int, _pointer)),
    "bpf_obj_pin": (_int, (_int, _text)),
    "bpf_obj_get": (_int, (_text,)),
    "bpf_obj_get_info_by_fd": (_int, (_int, _pointer, ctypes.POINTER(_u32))),
    "ring_buffer__new": (_pointer, (_int, SAMPLE, _pointer, _pointer)),
    "ring_buffer__free": (None, (_pointer,)),
    "ring_buffer__epoll_fd": (_int, (_pointer,)),
    "ring_buffer__consume": (_int, (_pointer,)),
}
"""Name → result and arguments, as in bpf/libbpf.h and bpf/bpf.h of version 1.1."""


class Library:
    """The functions of `SYMBOLS`, as attributes, and what libbpf said lately."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(SONAME, use_errno=True)
            for name, (result, arguments) in SYMBOLS.items():
                function = getattr(self._library, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise HostError(
                "LIBBPF_MISSING", f"{SONAME}: {error}", hint="apt-get install libbpf1"
            ) from error
        major = self._library.libbpf_major_version()
        if major < VERSION_MAJOR_MIN:
            raise HostError("LIBBPF_TOO_OLD", f"libbpf {major} is older than {VERSION_MAJOR_MIN}.0")
        self._said: collections.deque[str] = collections.deque(maxlen=LOG_LINES_MAX)
        self._lock = threading.Lock()
        self._format = ctypes.CDLL(None).vsnprintf
        self._format.argtypes = (ctypes.c_char_p, _size, _text, _pointer)
        self._buffer = ctypes.create_string_buffer(LOG_BYTES_MAX)
        self._print = PRINT(self._note)  # libbpf keeps the pointer: so do we
        self._library.libbpf_set_print(self._print)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} is not in SYMBOLS")

    @property
    def version(self) -> str:
        """Give libbpf's version, as "v1.1"."""
        return bytes(self._library.libbpf_version_string()).decode()

    def _note(self, level: int, template: bytes, arguments: int) -> int:
        if level < LEVEL_DEBUG:
            self._format(self._buffer, LOG_BYTES_MAX, template, arguments)
            self._said.extend(self._buffer.value.decode(errors="replace").splitlines())
        return 0

    @contextmanager
    def listening(self) -> Iterator[collections.deque[str]]:
        """Give what libbpf says within; one at a time."""
        with self._lock:
            self._said.clear()
            yield self._said


@functools.cache
def library() -> Library:
    """Load libbpf, once.

    Raises:
        HostError: `LIBBPF_MISSING`, `LIBBPF_TOO_OLD`.
    """
    return Library()


def failed(what: str, code: int | None = None) -> OSError:
    """Give the error of a function that returned `code`, or NULL where that is None."""
    number = ctypes.get_errno() if code is None or code == -1 else -code
    return OSError(number or errno.EIO, f"{what}: {os.strerror(number or errno.EIO)}")


def check(code: int, what: str) -> int:
    """Give `code` back where it is no error.

    Raises:
        OSError: it is one.
    """
    if code < 0:
        raise failed(what, code)
    return code
