"""Where ways out are tried: on the island without walls, and in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.client import FinishedCall
from tests.egress.servers import places
from tests.support.daemon import Daemon
from tests.support.world import PYTHON, World

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
PROFILES = [str(HERE.parents[1] / "profiles"), str(HERE / "profiles")]

SECRET = "ghp_0123456789abcdefghijklmnopqrstuvwxyz"  # noqa: S105 (of nobody)
"""What the daemon holds for profiles that name the secret `github`."""

Frame = tuple[str, str, int]

RESOLVING: frozenset[Frame] = frozenset(
    (protocol, address, 53) for protocol in ("udp", "tcp") for address in places.RESOLVERS
)
"""What the broker sends to find an allowed name."""


Attempts = Sequence[Mapping[str, Any]]


def without_walls(there: World, attempts: Attempts) -> list[str]:
    """Try on the island; give what each attempt got."""
    done = there.unconfined([PYTHON, PROGRAMS / "reach.py", json.dumps(attempts)])
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads(done.stdout)
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A finished call, and what its record tells."""

    call: FinishedCall
    denied: tuple[dict[str, Any], ...]
    flows: tuple[dict[str, Any], ...]
    lost: tuple[dict[str, Any], ...]

    def got(self) -> list[str]:
        """Give what each attempt of programs/reach.py got."""
        assert self.call.ok, (self.call.outcome, self.call.stderr[-2000:])
        said: list[str] = json.loads(self.call.stdout)
        return said

    def denials(self, *walls: tuple[str, str], says: str = "") -> list[dict[str, Any]]:
        """Find what is on record of these walls, `says` in its detail."""
        return [
            body for body in self.denied
            if not walls or (body["wall"], body["name"]) in walls
            if says in body.get("detail", "")
        ]  # fmt: skip


def confined(
    daemon: Daemon, attempts: Attempts, *, profile: str = "reaching", **options: Any
) -> Trial:
    """Try in a sandbox."""
    argv = ["python3", "reach.py", json.dumps(attempts)]
    files = {"reach.py": PROGRAMS / "reach.py", **options.pop("files", {})}
    return tried(daemon, daemon.client.run(argv, profile=profile, files=files, **options))


def tried(daemon: Daemon, call: FinishedCall) -> Trial:
    """Fetch the record of a call."""
    found: dict[str, list[dict[str, Any]]] = {"denied": [], "flow": [], "lost": []}
    for entry in daemon.client.record(call.call_id).entries:
        body = entry.body().get("body")
        if entry.kind in found and isinstance(body, dict):
            found[entry.kind].append(body)
    return Trial(
        call=call, denied=tuple(found["denied"]), flows=tuple(found["flow"]),
        lost=tuple(found["lost"]),
    )  # fmt: skip


def frames(lines: list[dict[str, Any]]) -> set[Frame]:
    """Give what came over the wire."""
    return {(x["protocol"], x["to"], x["port"]) for x in lines if x["kind"] == "frame"}


def arrived(lines: list[dict[str, Any]]) -> set[Frame]:
    """Give all that the world saw of an attempt, as an attack names it."""
    found = set(frames(lines))
    for line in lines:
        match line["kind"]:
            case "query":
                found.add(("query", line["name"], 53))
            case "hello":
                found.add(("hello", line["inner"] or line["sni"], line["port"]))
    return found
