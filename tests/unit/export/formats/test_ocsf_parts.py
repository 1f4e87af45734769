"""Bodies read with care, and what all events of a call share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.export.event import Opening, Source
from supervisor.export.formats import json_line
from supervisor.export.formats.ocsf_parts import (
    Fields,
    actor_of,
    call_parts,
    command_line,
    device_of,
    endpoint_of,
    ip,
    own_parts,
    put,
    shown,
    user_of,
)
from tests.support.exported import SOURCE, TRACE

NOBODY = Source(origin="", host="", version="")


def plain(value: Any) -> Any:
    return json.loads(json_line.encode(value))


def test_what_is_not_taken_stays() -> None:
    fields = Fields({"a": "x", "b": 1, "c": "y", "d": {"e": 1}, "f": 5})
    assert (fields.text("a"), fields.number("b"), fields.look("c")) == ("x", 1, "y")
    assert (fields.map("d"), fields.take("f")) == ({"e": 1}, 5)
    assert fields.rest() == {"c": "y", "d": {"e": 1}}
    assert fields.missing == []


def test_what_is_of_another_type_stays_and_is_named() -> None:
    body = {"text": 1, "number": True, "big": 2**63, "map": [], "list": {}, "time": -1, "raw": 1}
    fields = Fields(body)
    assert (fields.text("text"), fields.look("text"), fields.bytes_("raw")) == ("", "", "")
    assert (fields.number("number"), fields.number("big")) == (None, None)
    assert (dict(fields.map("map")), list(fields.list("list")), fields.time("time")) == ({}, [], 0)
    assert fields.rest() == body
    assert set(fields.missing) == body.keys()


def test_what_is_no_body_is_said_to_be_none() -> None:
    fields = Fields([1])
    assert (fields.rest(), fields.missing) == ({}, ["body"])


def test_bytes_that_are_no_text_are_shown_and_stay() -> None:
    fields = Fields({"program": {"base64": "c2j/"}})
    assert fields.bytes_("program") == "sh\\xff"
    assert fields.rest() == {"program": {"base64": "c2j/"}}


@pytest.mark.parametrize("value", [1, None, [], {"base64": 1}, {"base64": "%"}, {}])
def test_what_is_neither_text_nor_bytes_is_not_shown(value: object) -> None:
    assert shown(value) is None


def test_a_command_line_can_be_read_again() -> None:
    assert command_line(["sh", "-c", "a b", {"base64": "/w=="}, 7]) == "sh -c 'a b' '\\xff'"
    assert command_line({"no": "list"}) == ""


def test_only_what_there_is_is_put() -> None:
    assert put({"a": 1}, b=None, c="", d={}, e=0, f=False) == {"a": 1, "e": 0, "f": False}


def test_callers() -> None:
    assert user_of({"name": "n", "uid": 1000}) == {"name": "n", "uid": "1000"}
    assert user_of({"name": "n", "uid": None, "certificate_name": "c"})["uid"] == "c"
    assert actor_of({"name": "n", "pid": 7}) == {"user": {"name": "n"}, "process": {"pid": 7}}
    assert actor_of({}) == {"invoked_by": "stockade"}


@pytest.mark.parametrize(
    ("peer", "endpoint"),
    [
        ({"transport": "unix", "name": "n"}, {"hostname": "host", "svc_name": "unix"}),
        ({"transport": "tls", "name": "n", "certificate_name": "c"}, {"name": "c"}),
        ({"transport": "tls", "address": "192.0.2.1:80"}, {"ip": "192.0.2.1", "port": 80}),
        ({"transport": "tls", "address": "[2001:db8::1]:80"}, {"ip": "2001:db8::1", "port": 80}),
        ({"transport": "tls", "address": "192.0.2.1:x"}, {"ip": "192.0.2.1"}),
        ({"transport": "tls", "address": "nothing"}, {"name": "unknown"}),
        ({}, {"hostname": "host"}),
    ],
)
def test_where_a_request_is_from(peer: dict[str, Any], endpoint: dict[str, Any]) -> None:
    assert endpoint_of(peer, "host") == endpoint


def test_addresses() -> None:
    assert (ip("192.0.2.1"), ip("fe80::1%eth0"), ip("x"), ip("")) == (
        "192.0.2.1",
        "fe80::1",
        "",
        "",
    )


def test_the_host_has_a_name_always() -> None:
    assert device_of({"hostname": "h"}, SOURCE, kernel=True)["hostname"] == "h"
    assert device_of({}, SOURCE, kernel=True)["hostname"] == SOURCE.host
    assert device_of({}, NOBODY, kernel=True)["hostname"] == "unknown"
    new, old = (
        device_of({"kernel": "6.1"}, SOURCE, kernel=kernel)["os"] for kernel in (True, False)
    )
    assert (new["kernel_release"], old["version"]) == ("6.1", "6.1")


BODY: dict[str, Any] = {
    "caller": {"name": "n", "transport": "unix", "uid": 1, "pid": 2},
    "profile": {"name": "p", "digest": "d", "mode": "observe"},
    "host": {"hostname": "h"},
    "fingerprint": "f",
    "request": {
        "request_id": "r",
        "argv": ["a"],
        "correlation": {
            "agent": "g", "session": "s", "workflow": "",
            "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
        },
    },
}  # fmt: skip


def test_parts_of_a_call() -> None:
    parts = call_parts(Opening(3, 4, BODY), "call-1", SOURCE, old=False)
    assert (parts.observes, parts.profile, parts.command, list(parts.missing)) == (
        True,
        "p",
        "a",
        [],
    )
    assert plain(parts.policy) == {"name": "p", "uid": "d", "is_applied": False}
    assert plain(parts.trace) == {"uid": TRACE, "flags": ["01"]}
    assert plain(parts.agent)["instance_uid"] == "s"
    assert plain(parts.actor)["app_name"] == "g"
    assert plain(parts.device)["container"] == plain(parts.container) == {"uid": "call-1"}
    told = plain(parts.call)
    assert (told["index"], told["trace_id"], told["span_id"]) == (3, TRACE, "b7ad6b7169203331")
    old = call_parts(Opening(3, 4, BODY), "call-1", SOURCE, old=True)
    assert "app_name" not in plain(old.actor)


@pytest.mark.parametrize(
    "traceparent", ["", "x", f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{TRACE}-b7ad6b7169203331"]
)
def test_what_is_no_trace_is_none(traceparent: str) -> None:
    request = {**BODY["request"], "correlation": {"traceparent": traceparent}}
    parts = call_parts(Opening(3, 4, {**BODY, "request": request}), "call-1", SOURCE, old=False)
    assert parts.trace is None
    assert plain(parts.call).get("traceparent", "") == traceparent


def test_what_an_opening_lacks_is_named() -> None:
    parts = call_parts(Opening(3, 4, {}), "call-1", SOURCE, old=False)
    assert {"intent.caller", "intent.profile", "intent.host"} <= set(parts.missing)
    assert (parts.policy, parts.agent, parts.trace) == (None, None, None)


def test_parts_of_what_belongs_to_no_call() -> None:
    parts = own_parts(NOBODY, old=False)
    assert plain(parts.caller_endpoint) == {"name": "unknown"}
    assert parts.call is None
