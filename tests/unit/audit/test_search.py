"""What calls are found by: facts and words of entries, and limits that hide nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import apsw
import pytest

from supervisor.audit import search
from supervisor.audit.codec import (
    denied_to_json,
    flow_to_json,
    lost_to_json,
    processes_to_json,
    watched_to_json,
)
from supervisor.audit.entry import Kind
from supervisor.audit.index import CallSummary
from supervisor.audit.search import EVERYTHING, CallFilter, Trail, document, parse_place
from supervisor.call.events import (
    CELL_PATH,
    DAEMON_DIED,
    Denied,
    Lost,
    MoreArgv,
    Processes,
    ProgramStarted,
    Wall,
)
from supervisor.call.outcome import Exited, Failed, Outcome, TimedOut
from supervisor.call.types import Correlation, Json
from supervisor.errors import InvalidRequest
from tests.support.records import CALLER, FLOW, WATCHED, make_finished

SUMMARY = CallSummary(
    call_id="call-1",
    request_id="request-1",
    fingerprint="f" * 64,
    caller=CALLER,
    profile="python",
    profile_digest="d" * 64,
    mode="enforce",
    argv=(b"true",),
    accepted_ns=1,
    correlation=Correlation(agent="writer", session="s-1"),
    last_sequence=1,
    denials=0,
    finished=None,
)
INTENT: dict[str, Json] = {"request": {"argv": ["python3", "report.csv"]}}


def found(wanted: CallFilter, trail: Trail | None = None, summary: CallSummary = SUMMARY) -> bool:
    """Say whether a full-text index of this one call gives it."""
    db = apsw.Connection(":memory:")
    db.execute("CREATE VIRTUAL TABLE found USING fts5(facts, words)")
    db.execute("INSERT INTO found VALUES (?, ?)", document(summary, trail))
    rows = db.execute("SELECT 1 FROM found WHERE found MATCH ?", (wanted.match(),)).fetchall()
    return bool(rows)


def trail(*entries: tuple[Kind, Any]) -> Trail:
    made = Trail()
    for kind, body in entries:
        made.take(kind, body)
    return made


def program(path: bytes, *argv: bytes, cut: tuple[str, ...] = ()) -> tuple[Kind, Any]:
    started = ProgramStarted(
        time_ns=1, pid=2, parent_pid=1, uid=0, gid=0, path=path, directory=b"/", argv=argv,
        argv_bytes=1, cut=cut,
    )  # fmt: skip
    return Kind.PROCESSES, processes_to_json(Processes(events=(started,)))


def denied(wall: Wall, name: str, detail: str = "", rule: str = "") -> tuple[Kind, Any]:
    return Kind.DENIED, denied_to_json(Denied(wall=wall, name=name, detail=detail, rule=rule))


@pytest.mark.parametrize(
    ("field", "matching", "other"),
    [
        ("caller", "tester", "test"),
        ("profile", "python", "Python"),
        ("agent", "writer", "s-1"),
        ("session", "s-1", "s"),
    ],
)
def test_what_a_call_began_with(field: str, matching: str, other: str) -> None:
    assert found(CallFilter(**{field: matching}))  # type: ignore[arg-type]
    assert not found(CallFilter(**{field: other}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcome", "matching"),
    [
        (Exited(code=0), {"exited", "ok"}),
        (Exited(code=1), {"exited", "not_ok"}),
        (TimedOut(limit_s=1), {"timed_out", "not_ok"}),
        (Failed(reason="R", message="m"), {"failed", "not_ok"}),
    ],
)
def test_outcomes(outcome: Outcome, matching: set[str]) -> None:
    ended = replace(SUMMARY, finished=make_finished(outcome))
    assert {
        name for name in search.OUTCOMES if found(CallFilter(outcome=name), summary=ended)
    } == matching
    assert not any(found(CallFilter(outcome=name)) for name in search.OUTCOMES)


def test_denials() -> None:
    made = trail(denied(Wall.SYSCALL, "mount"))
    for name in ("syscall", "mount"):
        assert found(CallFilter(denied=name), made)
    for name in ("network", "moun", "any"):
        assert not found(CallFilter(denied=name), made)
    assert found(CallFilter(agent="writer", denied_only=True), made, replace(SUMMARY, denials=1))
    assert not found(CallFilter(agent="writer", denied_only=True), made)


def test_denials_that_repeat_hide_none() -> None:
    one, other = denied(Wall.SYSCALL, "mount", "a"), denied(Wall.SYSCALL, "mount", "b")
    made = trail(one, one, other, other, one)
    assert all(found(CallFilter(text=word), made) for word in ("a", "b", "mount"))


@pytest.mark.parametrize(
    "detail",
    [
        "api.example.com:443 is not allowed",
        "203.0.113.9:443 tcp (api.example.com)",
        "API.example.com. A: no rule",
    ],
)
def test_places_that_were_denied(detail: str) -> None:
    name = "dns" if "A:" in detail else "dial"
    made = trail(denied(Wall.NETWORK, name, detail))
    assert found(CallFilter(to="api.example.com"), made)
    assert found(CallFilter(to="Api.Example.com."), made)
    assert not found(CallFilter(to="example.com"), made)
    assert found(CallFilter(to="api.example.com:443"), made) is detail.startswith("api")
    assert not found(CallFilter(to="api.example.com:80"), made)
    other = trail(denied(Wall.SYSCALL, name, detail))
    assert not found(CallFilter(to="api.example.com"), other)


def test_places_of_flows() -> None:
    made = trail((Kind.FLOW, flow_to_json(FLOW)))
    for place in ("api.example.com", "api.example.com:443", "203.0.113.7", "203.0.113.7:443"):
        assert found(CallFilter(to=place), made)
    assert not found(CallFilter(to="api.example.com:44"), made)
    six = trail((Kind.FLOW, flow_to_json(replace(FLOW, address="2001:db8::1"))))
    for place in ("2001:db8::1", "2001:DB8:0::1", "[2001:db8::1]:443", "[2001:db8::1]"):
        assert found(CallFilter(to=place), six)
    assert not found(CallFilter(to="[2001:db8::1]:80"), six)


@pytest.mark.parametrize(
    "place",
    [
        "",
        "x:",
        "x:0",
        "x:65536",
        "x:y",
        "a b",
        "[2001:db8::1]:",
        ":1",
        "*.example.com",
        "*.example.com:443",
        "10.2.0.0/24",
        "10.2.0.5/24:5432",
        "2001:db8::/32",
    ],
)
def test_no_place(place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_place(place)
    assert caught.value.reason == "FILTER_INVALID"


def test_programs() -> None:
    made = trail(program(b"/usr/bin/curl", b"curl"), program(CELL_PATH.encode(), b"cell"))
    assert found(CallFilter(program="curl"), made)
    assert found(CallFilter(program="/usr/bin/curl"), made)
    for name in ("cur", "/bin/curl", "cell", CELL_PATH, "usr"):
        assert not found(CallFilter(program=name), made)


def test_programs_by_what_they_were_called_by() -> None:
    made = trail(program(b"/usr/bin/python3.13", b"/usr/bin/python3", b"perl"))
    for name in ("python3.13", "python3", "/usr/bin/python3"):
        assert found(CallFilter(program=name), made)
    assert not found(CallFilter(program="perl"), made)
    assert not found(CallFilter(program="x"), trail(program(b"/a", b"a", cut=("argv",))))
    assert found(CallFilter(program="x"), trail(program(b"/a", cut=("argv",))))  # nobody knows


@pytest.mark.parametrize(
    "text",
    [
        "report.csv", "REPORT", "python3 report", "quarterly", "mount", "ptrace_rule", "more",
        "by the far side", "socket", 'csv"', "curl", "python",
    ],
)  # fmt: skip
def test_words(text: str) -> None:
    more = MoreArgv(time_ns=1, pid=2, offset=1, data=b"\xffmore\0\xfe")
    made = trail(
        (Kind.INTENT, INTENT),
        program(b"/bin/curl", b"curl", b"quarterly\xff"),
        (Kind.PROCESSES, processes_to_json(Processes(events=(more,)))),
        denied(Wall.SYSCALL, "ptrace", "mount(a)", "ptrace_rule"),
        (Kind.FLOW, flow_to_json(FLOW)),
        (Kind.WATCHED, watched_to_json(WATCHED)),
    )
    assert found(CallFilter(text=text), made)


@pytest.mark.parametrize("text", ["absent", "report absent", "repor", "facts", "csv.report"])
def test_words_that_are_not_there(text: str) -> None:
    assert not found(CallFilter(text=text), trail((Kind.INTENT, INTENT)))


def test_what_was_printed_is_no_word() -> None:
    assert not found(CallFilter(text="x"), trail((Kind.OUTPUT, {"data": "x"})))


def test_why_a_call_failed_is_among_its_words() -> None:
    ended = replace(SUMMARY, finished=make_finished(Failed(reason="NO_ROOM", message="no room")))
    assert found(CallFilter(text="no room"), summary=ended)
    assert found(CallFilter(text="NO_ROOM"), summary=ended)


def test_all_that_is_wanted_has_to_hold() -> None:
    made = trail((Kind.INTENT, INTENT), denied(Wall.SYSCALL, "mount"))
    both = CallFilter(agent="writer", denied="mount", text="report")
    assert found(both, made)
    assert not found(replace(both, agent="reader"), made)
    assert not found(replace(both, denied="ptrace"), made)
    assert not found(replace(both, text="absent"), made)


def test_a_flood_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with more than there is room for is given by each search of that sort alone."""
    monkeypatch.setattr(search, "FACTS_MAX", 6)
    some = trail(*(program(b"/bin/p%d" % number) for number in range(3)))
    assert not found(CallFilter(program="nc"), some)
    some.take(*program(b"/bin/p0"))
    assert not found(CallFilter(program="nc"), some)
    some.take(*program(b"/bin/nc"))
    assert found(CallFilter(program="nc"), some)
    assert found(CallFilter(program="whatever"), some)
    assert not found(CallFilter(denied="mount"), some)
    assert not found(CallFilter(text="whatever"), some)


def test_a_flood_of_words_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "WORDS_CHARACTERS_MAX", 20)
    made = trail(program(b"/bin/x", b"123456"))
    assert not found(CallFilter(text="absent"), made)
    made.take(*program(b"/bin/x", b"1234567890123"))
    assert found(CallFilter(text="absent"), made)
    assert len("".join(made.words())) == 20
    assert not found(CallFilter(program="absent"), made)


@pytest.mark.parametrize(
    ("body", "matching"),
    [
        (Lost(what="exec", count=1, reason="R"), {"program", "text"}),
        (Lost(what="argv", count=1, reason="R"), {"text"}),
        (Lost(what="denial", count=1, reason="R"), {"denied", "to", "text"}),
        (Lost(what="flow", count=0, reason=DAEMON_DIED), {"to", "text"}),
        (Lost(what="probe events", count=0, reason="R"), {"denied", "to", "program", "text"}),
        (Lost(what="output", count=1, reason="R"), set()),
    ],
)
def test_what_was_lost_may_have_matched(body: Lost, matching: set[str]) -> None:
    made = trail((Kind.LOST, lost_to_json(body)))
    wanted = {name: CallFilter(**{name: "x"}) for name in ("denied", "to", "program", "text")}  # type: ignore[arg-type]
    assert {name for name, one in wanted.items() if found(one, made)} == matching


def test_what_an_entry_has_not_whole_may_have_matched() -> None:
    preview: dict[str, Json] = {"request_blob": {}, "request_preview": {"argv": ["begin"]}}
    assert found(CallFilter(text="absent"), trail((Kind.INTENT, preview)))
    assert found(CallFilter(program="x"), trail(program(b"/a", cut=("path",))))
    assert found(CallFilter(text="absent"), trail(program(b"/a", cut=("argv",))))


@pytest.mark.parametrize(
    "wanted",
    [
        {"outcome": "fine"},
        {"to": "x:y"},
        {"text": "ok --"},
        {"text": "a " * 33},
        {"agent": "x" * 4097},
    ],
)
def test_what_cannot_be_looked_for(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CallFilter(**wanted).match()
    assert caught.value.reason == "FILTER_INVALID"
    assert caught.value.metadata["subject"] in wanted


@pytest.mark.parametrize(
    "text", ['x" OR facts:"y"', "a NEAR b", "a*", "facts:x", "NOT x", "(a", "a'"]
)
def test_words_are_no_query(text: str) -> None:
    """Whatever stands in words is looked for; it never changes what is asked."""
    assert not found(CallFilter(agent="nobody", text=text))


def test_a_token_belongs_to_its_filter() -> None:
    token = EVERYTHING.token(70)
    assert EVERYTHING.parse_token(token) == 70
    assert EVERYTHING.parse_token("") is None
    with pytest.raises(InvalidRequest) as caught:
        CallFilter(agent="a").parse_token(token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize(
    "wanted", [{"since_ns": 7}, {"until_ns": 7}, {"since_ns": 6, "until_ns": 7}]
)
def test_times_with_something_between_them(wanted: dict[str, Any]) -> None:
    CallFilter(**wanted).check()


def test_times_with_nothing_between_them() -> None:
    with pytest.raises(InvalidRequest, match="since: is not before `until`") as caught:
        CallFilter(since_ns=7, until_ns=7).match()
    assert (caught.value.reason, caught.value.metadata) == ("FILTER_INVALID", {"subject": "since"})
