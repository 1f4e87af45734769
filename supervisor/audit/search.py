"""What calls can be found by: words and facts, taken from the entries as they are in the log. Pure.

A fact (a program that was started, a place that was reached for, a wall that held) is looked for
as a whole, and becomes one token, a digest, so that no character in it can be taken for another.
Words come from argv, names, rules and denial texts, never from what went through a stream.

There is a limit to each. A call that has more, or of which entries were lost, is given with every
search of that sort: nobody looked at all of it, so nobody can say that it does not match.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.audit.entry import Kind
from supervisor.call.events import CELL_PATH, FLOWS, PROBE_EVENTS, Wall
from supervisor.call.outcome import KINDS, Exited, Failed, Interrupted, Outcome, kind
from supervisor.call.texts import brief
from supervisor.call.types import Json, as_list, as_map, untext
from supervisor.errors import InvalidRequest

if TYPE_CHECKING:
    from supervisor.audit.index import CallSummary

SEARCHED = frozenset({Kind.DENIED, Kind.FLOW, Kind.PROCESSES, Kind.WATCHED, Kind.LOST})
"""The kinds of entries, after INTENT, that a call can be found by."""

FACTS_MAX = 512
"""Of one sort and one call: programs, places, walls."""

WORDS_CHARACTERS_MAX = 32 * 1024
"""Of one call."""

WANTED_BYTES_MAX = 4096
WANTED_WORDS_MAX = 32
TOKEN_BYTES = 12

TIME_NS_MAX = (1 << 63) - 1
"""The latest that the index can compare with."""

OK = "ok"
NOT_OK = "not_ok"
OUTCOMES = (OK, NOT_OK, *KINDS.values())
"""`ok` is an exit with 0, `not_ok` is any other end."""

_DENIED, _TO, _PROGRAM, _WORDS = "denied", "to", "program", "words"
_LOST = {
    "exec": (_PROGRAM, _WORDS),
    "argv": (_WORDS,),
    "denial": (_DENIED, _TO, _WORDS),
    FLOWS: (_TO, _WORDS),
    PROBE_EVENTS: (_PROGRAM, _DENIED, _TO, _WORDS),
}
_PAGE_TOKEN = re.compile(r"([0-9]{1,18})\.([0-9a-f]{24})", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_BEHIND = re.compile(r"\(([^ ()]+)\)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Which calls are wanted: those for which all that is set holds.

    `denied` is a wall or the name of what was denied, `to` HOST or HOST:PORT, `program` a path, or
    a name without its folder, `text` words that all have to be there.
    """

    caller: str = ""
    profile: str = ""
    agent: str = ""
    session: str = ""
    outcome: str = ""
    denied_only: bool = False
    denied: str = ""
    since_ns: int = 0
    until_ns: int = 0
    to: str = ""
    program: str = ""
    text: str = ""

    def check(self) -> None:
        """Make sure that it can be looked for.

        Raises:
            InvalidRequest: `FILTER_INVALID`.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and len(value.encode(errors="replace")) > WANTED_BYTES_MAX:
                raise _invalid(field.name, f"has more than {WANTED_BYTES_MAX} bytes")
        if self.outcome and self.outcome not in OUTCOMES:
            raise _invalid("outcome", f"is one of {', '.join(OUTCOMES)}")
        if self.to:
            parse_place(self.to)
        check_range(self.since_ns, self.until_ns)
        words = self.text.split()
        if len(words) > WANTED_WORDS_MAX:
            raise _invalid("text", f"has more than {WANTED_WORDS_MAX} words")
        if not all(any(map(str.isalnum, word)) for word in words):
            raise _invalid("text", "needs a letter or a digit in each word")

    def cleaned(self, clean: Callable[[str], str]) -> CallFilter | None:
        """Give the filter that finds what is on record where `clean` replaced something; None
        where it replaces nothing of this one."""
        names = ("agent", "session", "denied", "program", "text")
        shown: dict[str, Any] = {name: clean(getattr(self, name)) for name in names}
        filtered = dataclasses.replace(self, **shown)
        return filtered if filtered != self else None

    @property
    def searches(self) -> bool:
        """Say whether more is wanted than the columns of the index tell."""
        return any(
            (self.agent, self.session, self.outcome, self.denied, self.to, self.program)
        ) or bool(self.text.split())

    def match(self) -> str:
        """Give it as a full-text query, without the times.

        Raises:
            InvalidRequest: `FILTER_INVALID`.
        """
        self.check()
        terms = [
            _fact(sort, value)
            for sort, value in (
                ("caller", self.caller),
                ("profile", self.profile),
                ("agent", self.agent),
                ("session", self.session),
                ("outcome", self.outcome),
                (_DENIED, "any" if self.denied_only else ""),
            )
            if value
        ]
        if self.denied:
            terms.append(_or_cut(_fact(_DENIED, f"={self.denied}"), _DENIED))
        if self.to:
            terms.append(_or_cut(_fact(_TO, _place(*parse_place(self.to))), _TO))
        if self.program:
            terms.append(_or_cut(_fact(_PROGRAM, self.program), _PROGRAM))
        words = [f'words : "{_quoted(word)}"' for word in self.text.split()]
        if words:
            terms.append(_or_cut(f"({' AND '.join(words)})", _WORDS))
        return " AND ".join(terms)

    def token(self, first_index: int) -> str:
        """Give the token of the page that follows the call with this first entry."""
        return f"{first_index}.{self._digest()}"

    def parse_token(self, token: str) -> int | None:
        """Give where a page begins; None at the newest.

        Raises:
            InvalidRequest: `PAGE_TOKEN_INVALID`, also for the token of another filter.
        """
        if not token:
            return None
        found = _PAGE_TOKEN.fullmatch(token)
        if found is None:
            raise InvalidRequest("PAGE_TOKEN_INVALID", "the page token is not one of ours")
        if found[2] != self._digest():
            raise InvalidRequest("PAGE_TOKEN_INVALID", "the page token is that of another filter")
        return int(found[1])

    def _digest(self) -> str:
        return hashlib.blake2b(repr(self).encode(), digest_size=TOKEN_BYTES).hexdigest()


EVERYTHING = CallFilter()


class Trail:
    """What one call can be found by, gathered entry by entry. Not for several threads at once."""

    def __init__(self) -> None:
        self._facts: dict[str, set[str]] = {_DENIED: set(), _TO: set(), _PROGRAM: set()}
        self._words: dict[str, None] = {}
        self._room = WORDS_CHARACTERS_MAX
        self._cut: set[str] = set()
        self._denied: tuple[Json, ...] = ()

    def take(self, kind: str, body: Mapping[str, Json]) -> None:
        """Take one more entry of the call into account."""
        match kind:
            case Kind.INTENT:
                self._take_intent(body)
            case Kind.DENIED:
                self._take_denied(body)
            case Kind.FLOW:
                self._take_flow(body)
            case Kind.PROCESSES:
                for event in as_list(body["events"]):
                    self._take_process(event)
            case Kind.WATCHED:
                self._say(body["name"], body["detail"], body["rule"])
            case Kind.LOST:
                self._cut.update(_LOST.get(str(body["what"]), ()))

    def facts(self) -> list[str]:
        """Give the facts as tokens."""
        cut = [_token("cut", sort) for sort in self._cut]
        return sorted({*cut, *(fact for facts in self._facts.values() for fact in facts)})

    def words(self) -> list[str]:
        """Give the texts whose words can be looked for."""
        return list(self._words)

    def _take_intent(self, body: Mapping[str, Json]) -> None:
        request = body.get("request")
        if not isinstance(request, dict):  # the entry has only its beginning
            self._cut.add(_WORDS)
            request = body["request_preview"]
        self._say(*as_list(as_map(request)["argv"]))

    def _take_denied(self, body: Mapping[str, Json]) -> None:
        denied = (body["wall"], body["name"], body["detail"], body["rule"])
        if denied == self._denied:
            return  # The same again tells nothing that was not noted.
        self._denied = denied
        wall, name, detail, rule = map(str, denied)
        self._note(_DENIED, f"={wall}")
        self._note(_DENIED, f"={name}")
        self._say(name, detail, rule)
        if wall == Wall.NETWORK and detail:
            asked = detail.partition(" ")[0]
            behind = _BEHIND.search(detail)  # the name of an address, where it is known
            for place in (asked, behind[1] if behind else ""):
                self._reach(place)

    def _take_flow(self, body: Mapping[str, Json]) -> None:
        for host in (str(body["name"]), str(body["address"])):
            if host:
                self._note_place(_host(host), int(str(body["port"])))
        self._say(*(body[key] for key in ("name", "address", "rule", "reason")))

    def _take_process(self, event: Any) -> None:
        if event["what"] == "argv":
            self._say(event["data"])
        if event["what"] != "started":
            return
        path = _shown(event["path"])
        if path == CELL_PATH:
            return
        self._note(_PROGRAM, path)
        self._note(_PROGRAM, path.rpartition("/")[2])
        called = _shown(event["argv"][0]) if event["argv"] else ""
        if called and called != path:  # a link, or one program of many names
            self._note(_PROGRAM, called)
            self._note(_PROGRAM, called.rpartition("/")[2])
        if "path" in event["cut"]:
            self._cut.add(_PROGRAM)
        if "argv" in event["cut"]:
            self._cut.update((_WORDS,) if called else (_WORDS, _PROGRAM))
        self._say(path, *event["argv"])

    def _reach(self, place: str) -> None:
        try:
            self._note_place(*parse_place(place))
        except InvalidRequest:
            return  # What was denied was no matter of a place: its words are there all the same.

    def _note_place(self, host: str, port: int | None) -> None:
        self._note(_TO, host)
        if port is not None:
            self._note(_TO, _place(host, port))

    def _note(self, sort: str, value: str) -> None:
        facts = self._facts[sort]
        if sort in self._cut and len(facts) >= FACTS_MAX:
            return
        token = _token(sort, value)
        if token in facts:
            return
        if len(facts) >= FACTS_MAX:
            self._cut.add(sort)
        else:
            facts.add(token)

    def _say(self, *values: Json) -> None:
        for value in values:
            if not self._room:
                self._cut.add(_WORDS)
                return
            text = _shown(value)
            if len(text) > self._room:
                self._cut.add(_WORDS)
                text = text[: self._room]
            if text and text not in self._words:
                self._words[text] = None
                self._room -= len(text)


def document(summary: CallSummary, trail: Trail | None) -> tuple[str, str]:
    """Give the facts and the words of a call as the index keeps them."""
    facts = [
        _token(sort, value)
        for sort, value in (
            ("caller", summary.caller.name),
            ("profile", summary.profile),
            ("agent", summary.correlation.agent),
            ("session", summary.correlation.session),
        )
    ]
    words = [summary.profile]
    if summary.denials:
        facts.append(_token(_DENIED, "any"))
    if summary.finished is not None:
        outcome = summary.finished.outcome
        facts += (_token("outcome", name) for name in _outcome_names(outcome))
        if isinstance(outcome, Failed | Interrupted):
            words.append(outcome.message)
        if isinstance(outcome, Failed):
            words.append(outcome.reason)
    if trail is not None:
        facts += trail.facts()
        words += trail.words()
    text = "\n".join(words).replace("\0", " ").encode(errors="replace").decode()
    return " ".join(facts), text


def check_range(since_ns: int, until_ns: int) -> None:
    """Make sure that there is a time between the two; 0 is no bound.

    Raises:
        InvalidRequest: `FILTER_INVALID`.
    """
    if until_ns and since_ns >= until_ns:
        raise _invalid("since", "is not before `until`: nothing can be between them")


def parse_place(text: str) -> tuple[str, int | None]:
    """Read HOST, HOST:PORT, an address, or [ADDRESS]:PORT.

    Raises:
        InvalidRequest: `FILTER_INVALID`.
    """
    host, port = text, ""
    if not _is_address(text) and not _is_network(text) and ":" in text:
        host, _, port = text.rpartition(":")
        if text.endswith("]"):
            host, port = text, ""
        elif not (_PORT.fullmatch(port) and 1 <= int(port) <= 65_535):
            raise _invalid("to", f"{brief(text)!r} has no port of 1 to 65535 after the colon")
    host = _host(host.removeprefix("[").removesuffix("]"))
    if not host or not host.isprintable() or " " in host:
        raise _invalid("to", f"{brief(text)!r} is not HOST, HOST:PORT or [ADDRESS]:PORT")
    if host.startswith("*.") or _is_network(host):
        # It would match nothing, and be taken for "nobody was there".
        said = "is a rule's place, not one name or address: text= (--text) finds rules"
        raise _invalid("to", f"{brief(text)!r} {said}")
    return host, int(port) if port else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


def _host(text: str) -> str:
    """Give a host in the one form in which it is kept."""
    return str(ipaddress.ip_address(text)) if _is_address(text) else text.lower().rstrip(".")


def _place(host: str, port: int | None) -> str:
    return host if port is None else f"{host} {port}"


def _outcome_names(outcome: Outcome) -> Iterable[str]:
    yield kind(outcome)
    yield OK if isinstance(outcome, Exited) and outcome.code == 0 else NOT_OK


def _token(sort: str, value: str) -> str:
    data = f"{sort}:{value}".encode(errors="surrogateescape")
    return "f" + hashlib.blake2b(data, digest_size=TOKEN_BYTES).hexdigest()


def _fact(sort: str, value: str) -> str:
    return f'facts : "{_token(sort, value)}"'


def _or_cut(term: str, sort: str) -> str:
    return f"({term} OR {_fact('cut', sort)})"


def _quoted(word: str) -> str:
    return word.replace('"', '""').replace("\0", " ")


def _shown(value: Json) -> str:
    """Give text as it was put into an entry, with what is no UTF-8 as surrogates."""
    return untext(value).decode(errors="surrogateescape") if isinstance(value, str | dict) else ""


def _invalid(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest("FILTER_INVALID", f"{name}: {problem}", metadata={"subject": name})
