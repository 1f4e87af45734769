"""libbpf by ctypes: found, new enough, and its errors are ours."""

from __future__ import annotations

import ctypes
import errno
import types

import pytest

from supervisor.bpf import libbpf
from supervisor.bpf.libbpf import Library, check, failed, library
from supervisor.errors import HostError


def test_every_symbol_is_there() -> None:
    one = library()
    assert all(callable(getattr(one, name)) for name in libbpf.SYMBOLS)
    assert one.version.startswith("v1.")
    assert library() is one


def test_what_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(AttributeError):
        _ = library().bpf_prog_load


def test_a_host_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "SONAME", "libbpf-none.so.1")
    with pytest.raises(HostError) as caught:
        Library()
    assert caught.value.reason == "LIBBPF_MISSING"


def test_an_old_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero(types.SimpleNamespace):
        def __call__(self) -> int:
            return 0

    class Functions:
        def __getattr__(self, name: str) -> Zero:
            return Zero()

    monkeypatch.setattr(libbpf.ctypes, "CDLL", lambda *_, **__: Functions())
    with pytest.raises(HostError) as caught:
        Library()
    assert caught.value.reason == "LIBBPF_TOO_OLD"


def test_errors_name_what_failed() -> None:
    assert check(3, "x") == 3
    with pytest.raises(OSError, match="put: No space left") as caught:
        check(-errno.ENOSPC, "put")
    assert caught.value.errno == errno.ENOSPC
    ctypes.set_errno(errno.EEXIST)
    assert failed("pin").errno == errno.EEXIST
    ctypes.set_errno(0)
    assert failed("pin").errno == errno.EIO


def test_what_it_says_is_kept() -> None:
    with library().listening() as said:
        assert not library().bpf_object__open_file(b"/nowhere/none.bpf.o", None)
        assert any("none.bpf.o" in line for line in said)
    with library().listening() as said:
        assert list(said) == []
