"""What is in force is on record before anybody can ask for anything: the configuration, who may
call what, and every profile by its digest.

One entry a start, and one each time that sinks are read again, tell every change: it differs from
the one before. What is too large for an entry goes to a blob.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from supervisor import __version__
from supervisor.api.config import CallerEntry, Configuration
from supervisor.api.paging import to_end
from supervisor.audit.entry import Kind
from supervisor.audit.store import Store
from supervisor.call.types import Json, canonical_json
from supervisor.profile.load import ProfileSet

INLINE_BYTES_MAX = 32 * 1024
PARTS = ("configuration", "callers", "profiles")


def policy_of(config: Configuration, source: Path | None, profiles: ProfileSet) -> dict[str, Json]:
    """Give what decides, in its three parts; `source` is the configuration's file."""
    settings = config.model_dump(mode="json", exclude={"callers"})
    return {
        "configuration": {
            "source": str(source) if source is not None else "",
            "settings": _named(settings),
        },
        "callers": [_grants(entry) for entry in config.callers],
        "profiles": [_profile(name, profiles) for name in sorted(profiles.names)],
    }


async def note(store: Store, policy: Mapping[str, Json]) -> None:
    """Make durable what is in force.

    Raises:
        AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`; nobody may be served then.
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
    """
    body: dict[str, Json] = {"version": __version__}
    body |= {f"{part}_sha256": _sha256(canonical_json(policy[part])) for part in PARTS}
    canonical = canonical_json(dict(policy))
    if len(canonical) <= INLINE_BYTES_MAX:
        body["policy"] = dict(policy)
    else:
        digest = await to_end(store.blobs.put, canonical)
        body["policy_blob"] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
    await store.note(Kind.POLICY, body)


def _grants(entry: CallerEntry) -> Json:
    key, value = entry.identity
    return {
        "name": entry.name,
        key: value,
        "profiles": list(entry.profiles),
        "calls": entry.calls,
        "audit": entry.audit,
        "holds": entry.holds,
        "erase": entry.erase,
        "witness": entry.witness,
        "exports": entry.exports,
    }


def _profile(name: str, profiles: ProfileSet) -> Json:
    problems = profiles.problems(name)
    if problems:
        return {"name": name, "problems": len(problems)}
    profile = profiles.effective(name)
    return {"name": name, "digest": profile.digest, "mode": profile.mode}


def _named(settings: Json) -> Json:
    """Give settings without the arguments of their commands and the paths of their addresses, which
    may be secrets: their digests."""
    if isinstance(settings, list):
        return [_named(one) for one in settings]
    if not isinstance(settings, dict):
        return settings
    named = {key: _named(value) for key, value in settings.items() if value is not None}
    command = settings.get("command")
    if isinstance(named.get("url"), str):
        named["url"] = _without_path(named["url"])
    if isinstance(command, list):
        named["command"] = command[0]
        named["arguments_sha256"] = _sha256(canonical_json(command[1:]))
    return named


def _without_path(url: Json) -> str:
    """Give an address without its path, which may be a secret: its digest."""
    whole = str(url)
    parts = urlsplit(whole)
    host = parts.netloc.rpartition("@")[2]
    rest = whole.partition(host)[2] if host else whole
    shown = f"{parts.scheme}://{host}"
    return shown if rest in ("", "/") else f"{shown}/…{_sha256(rest.encode())[:16]}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
