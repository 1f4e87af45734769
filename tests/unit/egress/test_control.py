"""What is said is what is heard; what a broker may not say is refused."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.api import messages as messages_of
from supervisor.call.events import Denied, Flow, Lost, Verdict, Wall
from supervisor.egress.control import (
    COUNT_MAX,
    DENIAL_NAMES,
    MESSAGE_BYTES_MAX,
    NUMBER_MAX,
    PID_MAX,
    SECONDS_MAX,
    Authority,
    ControlError,
    Done,
    Failed,
    Finish,
    Listening,
    NameTaken,
    Policy,
    Ready,
    Secret,
    decode,
    decode_policy,
    decode_request,
    encode,
    encode_policy,
)
from supervisor.profile.model import EgressRule, Inspect, PortRange

numbers = st.integers(0, NUMBER_MAX)
pids, counts = st.integers(0, PID_MAX), st.integers(1, COUNT_MAX)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
programs = st.binary(max_size=16)
flows = st.builds(
    Flow, name=texts, address=texts, port=st.integers(0, 65535), rule=texts,
    verdict=st.sampled_from(Verdict), reason=texts, sent=numbers, received=numbers,
    started_ns=numbers, duration_s=st.floats(0, SECONDS_MAX), pid=pids, program=programs,
)  # fmt: skip
denials = st.builds(
    Denied, wall=st.just(Wall.NETWORK), name=st.sampled_from(sorted(DENIAL_NAMES)), detail=texts,
    pid=pids, program=programs, count=counts, rule=texts,
)  # fmt: skip
messages = st.one_of(
    flows, denials,
    st.builds(Lost, what=st.sampled_from(["flow", "denial"]), count=counts, reason=texts),
    st.builds(NameTaken, name=texts, number=st.integers(0, (1 << 32) - 1)),
    st.builds(Failed, reason=texts), st.just(Ready()), st.just(Done()),
)  # fmt: skip
FLOW = Flow(name="a", address="", port=1, rule="r", verdict=Verdict.CLOSED)


@given(messages)
def test_what_is_said_is_heard(message: Any) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
@example(b"[]")
@example(b"null")
@example(b"{}")
@example(b'{"kind": []}')
@example(b"[" * 100_000)
def test_anything_else_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(ControlError):
        decode(data)


@given(
    messages,
    st.text(string.ascii_letters, max_size=8),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(texts)),
)
def test_a_field_that_is_changed_is_valid_or_refused(message: Any, name: str, value: Any) -> None:
    """Whatever comes out has the types of an event: never something else."""
    fields = json.loads(encode(message))
    fields[name or sorted(fields)[0]] = value
    try:
        heard = decode(json.dumps(fields).encode())
    except ControlError:
        return
    assert decode(encode(heard)) == heard


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 65536), ("port", -1), ("port", True), ("port", "80"), ("port", 1.0),
        ("sent", -1), ("sent", NUMBER_MAX + 1), ("verdict", "fine"), ("verdict", None),
        ("name", "x" * 301), ("reason", "x" * 2049), ("reason", "\ud800"), ("duration_s", -1.0),
        ("duration_s", float("nan")), ("duration_s", float("inf")), ("program", "\u0100"),
        ("program", "x" * 65), ("kind", "Started"), ("kind", "Flow "), ("extra", 1),
        ("pid", PID_MAX + 1), ("duration_s", 1e300), ("duration_s", 10**400),
    ],
)  # fmt: skip
def test_each_bound_holds(field: str, value: Any) -> None:
    fields = {**json.loads(encode(FLOW)), field: value}
    with pytest.raises(ControlError):
        decode(json.dumps(fields).encode())


def test_a_broker_tells_only_of_its_own_walls() -> None:
    fields = json.loads(encode(Denied(wall=Wall.NETWORK, name="dial")))
    for change in (
        {"wall": "syscall"}, {"name": "execve"}, {"wall": "limit"}, {"count": 0},
        {"count": COUNT_MAX + 1}, {"pid": PID_MAX + 1},
        {"arguments": [1]}, {"wall": "limit", "name": "memory"},
    ):  # fmt: skip
        with pytest.raises(ControlError):
            decode(json.dumps({**fields, **change}).encode())
    limit = Denied(wall=Wall.LIMIT, name="egress", used=5, allowed=5)
    assert decode(encode(limit)) == limit
    with pytest.raises(ControlError):
        decode(encode(Lost(what="output", count=1, reason="x")))


@given(st.one_of(flows, denials))
def test_whatever_a_broker_may_say_can_be_told_to_a_client(said: Flow | Denied) -> None:
    """An entry that no client can be given would hide the whole record that it is in."""
    heard = decode(encode(said))
    assert isinstance(heard, Flow | Denied)
    message = messages_of.flow(heard) if isinstance(heard, Flow) else messages_of.denied(heard)
    assert message.SerializeToString()


def test_a_missing_field_and_a_long_message_are_refused() -> None:
    fields = json.loads(encode(FLOW))
    del fields["pid"]
    with pytest.raises(ControlError):
        decode(json.dumps(fields).encode())
    with pytest.raises(ControlError):
        decode(b" " * MESSAGE_BYTES_MAX + encode(Ready()))


def test_the_daemon_has_one_word() -> None:
    for drain in (False, True):
        assert decode_request(encode(Finish(drain=drain))) == Finish(drain=drain)
    for data in (b"", b"{}", encode(Ready()), encode(Finish()) + b" "):
        with pytest.raises(ControlError):
            decode_request(data)


POLICY = Policy(
    call_id="call",
    call=1 << 40,
    rules=(
        EgressRule(host="api.example.com", ports=(PortRange(low=443, high=443),)),
        EgressRule(
            cidr="198.51.100.0/24", ports=(PortRange(low=1, high=2), PortRange(low=5, high=5)),
            inspect=Inspect.HTTP, private=True, methods=("GET",), paths=("/a*",), why="w",
        ),
    ),
    secrets=(Secret(name="s", header="H", host="h", placeholder="p", value="v3ry-s3cret"),),
    egress_bytes=7,
    listening=Listening(tcp=2, dns_udp=2, dns_tcp=2),
    resolvers=("192.0.2.53",),
    authority=Authority(key="KEY", certificate="CERT"),
    authorities="TRUSTED",
)  # fmt: skip


def test_a_policy_comes_through_whole() -> None:
    assert decode_policy(encode_policy(POLICY)) == POLICY


def test_secrets_are_in_no_text() -> None:
    assert "v3ry-s3cret" not in repr(POLICY)
    assert "KEY" not in repr(POLICY)
    with pytest.raises(ControlError) as caught:
        decode_policy(encode_policy(POLICY).replace(b'"name": "s"', b'"nome": "s"'))
    assert "v3ry-s3cret" not in str(caught.value)


@given(st.binary(max_size=60))
def test_another_policy_is_none(data: bytes) -> None:
    with pytest.raises(ControlError):
        decode_policy(data)
