"""The record as ECS, the Elastic Common Schema, 9.0: the events of OCSF under its names.

What ECS has no name for is under `stockade`: all of `unmapped.stockade` of the OCSF event, and
class, disposition and profile as OCSF has them. `event.id` is the event's `uid`, so that who gets
one twice can tell.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from supervisor.export.event import Entry, Event, Head, Opening, Source
from supervisor.export.formats import json_line
from supervisor.export.formats import ocsf_facts as facts
from supervisor.export.formats.ocsf import PARTS_MAX, Ocsf
from supervisor.export.formats.ocsf_parts import PRODUCT, as_it_is, fragment, put

VERSION = "9.0.0"
MILLISECONDS = 1000
NETWORK = 4
"""Of OCSF, the category."""

YEAR_9999_MS = 253_402_300_799_999
"""The last moment that a date here can tell."""

_CATEGORIES: dict[int, list[str]] = {
    facts.KERNEL_ACTIVITY: ["process"],
    facts.PROCESS_ACTIVITY: ["process"],
    facts.EVENT_LOG_ACTIVITY: ["host"],
    facts.DETECTION_FINDING: ["intrusion_detection"],
    facts.NETWORK_ACTIVITY: ["network"],
    facts.HTTP_ACTIVITY: ["network", "web"],
    facts.DNS_ACTIVITY: ["network"],
    facts.CONFIG_CHANGE: ["configuration"],
    facts.APPLICATION_LIFECYCLE: ["process"],
    facts.API_ACTIVITY: ["api"],
}
_TYPES: dict[int, str] = {
    100701: "start", 100702: "end", 100802: "deletion", 400102: "end", 400103: "end",
    400104: "error", 400301: "protocol", 600203: "start", 600204: "end", 600301: "creation",
    600302: "access", 600303: "change",
}  # fmt: skip
_ENDS = (("source", "src_endpoint"), ("destination", "dst_endpoint"))
_ECS = {"version": VERSION}
_NONE: Mapping[str, Any] = {}
_OUTCOMES = {"Success": "success", "Failure": "failure"}


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all events of a call say, as JSON that is made once. `of` are the objects that it was
    made of."""

    of: tuple[Any, Any]
    call: orjson.Fragment | None
    host: orjson.Fragment
    more: Mapping[str, orjson.Fragment]


class Ecs:
    """A `Format`. Keeps what all events of a call share. Not for several threads at once."""

    def __init__(self, source: Source) -> None:
        self._ocsf = Ocsf(source, share=as_it_is)
        self._calls: dict[int, _Shared] = {}
        product = put({"vendor": PRODUCT, "product": PRODUCT}, version=source.version)
        self._observer = fragment(product)

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the events of an entry."""
        told = self._ocsf.told(entry, opening, head)
        for event, fields in told:
            event.data = json_line.encode(self._told(fields))
        return [event for event, _ in told]

    def _told(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Give an OCSF event by the names of ECS."""
        place = event["unmapped"]["stockade"]
        shared = self._shared(place.get("call"), event.get("device"))
        if shared.call is not None:
            place["call"] = shared.call
        place["class"] = event["class_name"]
        put(place, disposition=event.get("disposition"), policy=event.get("policy"))
        made: dict[str, Any] = {
            "@timestamp": _time(event["time"]),
            "ecs": _ECS,
            "message": event["message"],
            "event": _event(event),
            "observer": self._observer,
            "host": shared.host,
            "stockade": place,
        }
        user = _at(event, "actor", "user")
        if user and (named := put({}, name=user.get("name"), id=user.get("uid"))):
            made["user"] = named
        if process := _process(event):
            made["process"] = process
        for name, end in _ENDS:
            if end in event and (place_of := _place(event[end])):
                made[name] = place_of
        if event["class_uid"] // 1000 == NETWORK:
            made["network"] = _network(event)
        if named := _at(event, "query", "hostname"):
            made["dns"] = {"question": {"name": named}}
        if rule := place.get("rule"):
            made["rule"] = {"name": rule}
        made.update(shared.more)
        return made

    def _shared(self, call: Any, device: Any) -> _Shared:
        kept = self._calls.get(id(call))
        if kept is not None and kept.of[0] is call and kept.of[1] is device:
            return kept
        ids = call or _NONE
        more = put(
            {},
            container=put({}, id=ids.get("id")),
            trace=put({}, id=ids.get("trace_id")),
            span=put({}, id=ids.get("span_id")),
        )
        made = _Shared(
            (call, device),
            None if call is None else fragment(call),
            fragment(_host(device or _NONE)),
            {name: fragment(value) for name, value in more.items()},
        )
        if len(self._calls) >= PARTS_MAX:
            del self._calls[next(iter(self._calls))]
        self._calls[id(call)] = made
        return made


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    metadata = event["metadata"]
    types = [_TYPES.get(event["type_uid"], "info")]
    if event["class_uid"] in (facts.NETWORK_ACTIVITY, facts.HTTP_ACTIVITY):
        types = ["connection", *(one for one in types if one != "info")]
    if event.get("action_id") in (facts.ALLOWED, facts.DENIED):
        types.append(event["action"].lower())
    made = {
        "kind": "alert" if event["class_uid"] == facts.DETECTION_FINDING else "event",
        "category": _CATEGORIES.get(event["class_uid"], []),
        "type": types,
        "action": f"{metadata['event_code']}-{event['activity_name']}".lower().replace(" ", "-"),
        "code": metadata["event_code"],
        "id": metadata["uid"],
        "sequence": metadata["sequence"],
        "severity": event["severity_id"],
        "provider": "stockade",
        "module": "stockade",
        "dataset": "stockade.record",
        "created": _time(metadata["logged_time"]),
    }
    lasted = event.get("duration")
    return put(
        made,
        outcome=_OUTCOMES.get(event.get("status", ""), "unknown"),
        reason=event.get("status_detail"),
        start=_time(event["start_time"]) if "start_time" in event else None,
        end=_time(event["end_time"]) if "end_time" in event else None,
        duration=None if lasted is None else lasted * 1_000_000,
    )


def _host(device: Mapping[str, Any]) -> dict[str, Any]:
    name = device.get("hostname")
    os = device.get("os") or {}
    about = put({"type": "linux"}, name=os.get("name"), kernel=os.get("kernel_release"))
    return put({}, hostname=name, name=name, os=about)


def _process(event: Mapping[str, Any]) -> dict[str, Any]:
    """Give the process that an event is of: the one that it is about, or else who did it."""
    told = event.get("process") or _at(event, "actor", "process") or {}
    parent = _at(told, "parent_process", "pid")
    return put(
        {},
        pid=told.get("pid"),
        name=told.get("name"),
        command_line=told.get("cmd_line"),
        executable=_at(told, "file", "path"),
        working_directory=told.get("working_directory"),
        exit_code=event.get("exit_code"),
        parent=None if parent is None else {"pid": parent},
    )


def _place(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    ip, name = endpoint.get("ip"), endpoint.get("hostname") or endpoint.get("name")
    address = endpoint.get("hostname") or ip or name
    return put(
        {}, ip=ip, port=endpoint.get("port"), domain=endpoint.get("hostname"), address=address
    )


def _network(event: Mapping[str, Any]) -> dict[str, Any]:
    traffic = event.get("traffic") or {}
    return put(
        {"direction": "egress"},
        transport=_at(event, "connection_info", "protocol_name"),
        bytes=traffic.get("bytes"),
        protocol="dns" if event["class_uid"] == facts.DNS_ACTIVITY else None,
    )


def _time(ms: int) -> str:
    """Give milliseconds since the epoch as a date; past the last that can be told, that one."""
    moment = min(max(ms, 0), YEAR_9999_MS)
    return f"{_second(moment // MILLISECONDS)}.{moment % MILLISECONDS:03}Z"


@functools.lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _at(value: Any, *way: str) -> Any:
    for name in way:
        value = value.get(name) if type(value) is dict else None
    return value
