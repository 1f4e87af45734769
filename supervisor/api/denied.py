"""What a denial can be looked for by: a wall, or the name of what was denied.

A name that nothing is denied by finds nothing, and would be taken for "nobody was denied".
"""

from __future__ import annotations

import difflib
import re

from supervisor.bpf.decode import HOOK_NAMES
from supervisor.call.events import BROKER_DENIALS, Wall
from supervisor.call.outcome import LimitKind
from supervisor.call.texts import brief
from supervisor.errors import InvalidRequest
from supervisor.profile.syscalls import known_names

KILLED = "SIGSYS"
_NUMBERED = re.compile(r"syscall_[0-9]{1,10}", re.ASCII)
_NAMES = frozenset({*Wall, *LimitKind, *BROKER_DENIALS, *HOOK_NAMES.values(), KILLED})


def require_denial(name: str) -> None:
    """Make sure that something can be denied by this name; "" is none.

    Raises:
        InvalidRequest: `FILTER_INVALID`.
    """
    if not name or name in _NAMES or name in known_names() or _NUMBERED.fullmatch(name):
        return
    known = sorted(map(str, {*_NAMES, *known_names()}))
    near = difflib.get_close_matches(brief(name), known, n=1, cutoff=0.6)
    walls = f"walls are {', '.join(Wall)}; a name is that of a system call, limit or protocol"
    raise InvalidRequest(
        "FILTER_INVALID",
        f"denied: no wall is {brief(name)!r}, and nothing of that name is denied",
        hint=f"did you mean {near[0]!r}?" if near else walls,
        metadata={"subject": "denied"},
    )
