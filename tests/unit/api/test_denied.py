"""What a denial is looked for by is a name that something is denied by."""

from __future__ import annotations

import pytest

from supervisor.api.denied import require_denial
from supervisor.errors import InvalidRequest


@pytest.mark.parametrize(
    "name", ["", "network", "syscall", "mount", "exec", "userns", "dns", "memory", "SIGSYS",
             "syscall_999"]
)  # fmt: skip
def test_names(name: str) -> None:
    require_denial(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("netwrok", "did you mean 'network'?"), ("sokcet", "did you mean 'socket'?"),
        ("syscall_", "did you mean 'syscall'?"), ("?" * 5000, "walls are syscall, limit, network"),
    ],
)  # fmt: skip
def test_a_name_that_nothing_is_denied_by(name: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        require_denial(name)
    assert (caught.value.reason, caught.value.metadata) == ("FILTER_INVALID", {"subject": "denied"})
    assert caught.value.hint.startswith(hint)
    assert len(caught.value.message) < 200
