"""The record as ECS: fields of its types, with its own words where it has a list of them."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.entry import CALL_KINDS, Kind
from supervisor.export.event import Entry, Opening
from supervisor.export.formats.ecs import VERSION, YEAR_9999_MS, Ecs, _time
from supervisor.export.formats.ocsf import Ocsf
from tests.support.exported import HEAD, HOSTILE, SOURCE, TRACE, collect
from tests.unit.export.formats.test_ocsf import BODIES

Pairs = list[tuple[Entry, Opening | None]]

CATEGORIES = {
    "api", "configuration", "host", "intrusion_detection", "network", "process", "web",
}  # fmt: skip
TYPES = {
    "access", "allowed", "change", "connection", "creation", "deletion", "denied", "end", "error",
    "info", "protocol", "start",
}  # fmt: skip


def _date(value: object) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(value)))


def _ip(value: object) -> bool:
    return bool(ipaddress.ip_address(str(value)))


def _word(*words: str) -> Callable[[object], bool]:
    return lambda value: value in words


def _list(words: set[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and set(value) <= words


def _text(value: object) -> bool:
    return type(value) is str


def _long(value: object) -> bool:
    return type(value) is int and abs(value) < 2**63


FIELDS: dict[str, Callable[[object], bool]] = {
    "@timestamp": _date, "ecs.version": _word(VERSION), "message": _text,
    "event.kind": _word("event", "alert"), "event.category": _list(CATEGORIES),
    "event.type": _list(TYPES), "event.outcome": _word("success", "failure", "unknown"),
    "event.action": _text, "event.code": _text, "event.id": _text, "event.sequence": _long,
    "event.severity": _long, "event.provider": _text, "event.module": _text,
    "event.dataset": _text, "event.created": _date, "event.reason": _text, "event.start": _date,
    "event.end": _date, "event.duration": _long,
    "observer.vendor": _text, "observer.product": _text, "observer.version": _text,
    "host.hostname": _text, "host.name": _text, "host.os.type": _word("linux"),
    "host.os.name": _text, "host.os.kernel": _text,
    "user.name": _text, "user.id": _text,
    "process.pid": _long, "process.name": _text, "process.command_line": _text,
    "process.executable": _text, "process.working_directory": _text, "process.exit_code": _long,
    "process.parent.pid": _long,
    **{
        f"{side}.{name}": check
        for side in ("source", "destination")
        for name, check in (("ip", _ip), ("port", _long), ("domain", _text), ("address", _text))
    },
    "network.direction": _word("egress"), "network.transport": _text, "network.bytes": _long,
    "network.protocol": _text, "dns.question.name": _text, "rule.name": _text,
    "container.id": _text, "trace.id": _text, "span.id": _text,
}  # fmt: skip
"""What is used of ECS 9.0, and of which type it is there."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return collect(tmp_path_factory.mktemp("state"))


def leaves(value: dict[str, Any], way: str = "") -> Iterator[tuple[str, object]]:
    for name, one in value.items():
        if way == "" and name == "stockade":
            continue
        if isinstance(one, dict):
            yield from leaves(one, f"{way}{name}.")
        else:
            yield f"{way}{name}", one


def check(entry: Entry, opening: Opening | None) -> list[dict[str, Any]]:
    events = Ecs(SOURCE).encode(entry, opening, HEAD)
    ids = [event.uid for event in Ocsf(SOURCE).encode(entry, opening, HEAD)]
    told = [json.loads(event.data) for event in events]
    assert [one["event"]["id"] for one in told] == [event.uid for event in events] == ids
    for event, one in zip(events, told, strict=True):
        assert len(event.data.decode().splitlines()) == 1
        for name, value in leaves(one):
            assert FIELDS[name](value), (name, value)
        assert (one["stockade"]["leaf"], one["stockade"]["index"]) == (entry.leaf, entry.index)
    return told


def test_every_event_is_ecs(pairs: Pairs) -> None:
    seen: set[str] = set()
    for entry, opening in pairs:
        for one in check(entry, opening):
            seen.update(name for name, _ in leaves(one))
    assert seen == FIELDS.keys()


def test_a_finding_is_an_alert(pairs: Pairs) -> None:
    for entry, opening in pairs:
        kinds = [one["event"]["kind"] for one in check(entry, opening)]
        assert kinds[0] == "event"
        if entry.kind == Kind.DENIED:
            assert kinds == ["event", "alert"]


def test_a_call_is_told(pairs: Pairs) -> None:
    for entry, opening in pairs:
        for one in check(entry, opening):
            assert one.get("container") == ({"id": entry.call} if entry.call else None)
            if entry.call == "call-0":
                assert one["trace"] == {"id": TRACE}


def test_a_denied_connection(pairs: Pairs) -> None:
    entry, opening = next(p for p in pairs if p[0].body.get("verdict") == "denied")
    first, alert = check(entry, opening)
    assert first["event"]["type"] == ["connection", "denied"]
    assert first["destination"]["domain"] == "api.example.com"
    assert first["rule"]["name"] == alert["rule"]["name"] == "*.example.com:443"


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from([*Kind, "new"]), body=BODIES, opening=BODIES)
def test_any_body_is_ecs(kind: str, body: Any, opening: Any) -> None:
    of_call = kind in CALL_KINDS
    entry = Entry(3, "ab" * 32, 1_700_000_000_000_000_000, kind, "call" if of_call else "", 1, body)
    check(entry, Opening(1, 1, opening) if of_call else None)


def test_what_a_sandbox_says_is_on_one_line() -> None:
    body = {"wall": "syscall", "name": HOSTILE, "detail": HOSTILE}
    check(Entry(3, "ab" * 32, 1, Kind.DENIED, "call", 1, body), None)


def test_times() -> None:
    assert _time(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert (_time(-5), _time(10**18)) == ("1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z")
    assert _time(YEAR_9999_MS) == _time(YEAR_9999_MS + 1)
