"""One call's way out: what is written into the kernel, what the broker is told, what is said of a
denial; that all of it works together is in tests/egress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from supervisor.bpf import layout
from supervisor.bpf.doors import Door
from supervisor.bpf.fence import Fence
from supervisor.call.events import Denied, Flow, Lost, Verdict, Wall
from supervisor.egress import terminate
from supervisor.egress.client import Broker, Order, Zygote
from supervisor.egress.control import NameTaken
from supervisor.egress.plan import BLOCK_NAMES, BLOCKS_START
from supervisor.errors import BrokerFailed, HostError
from supervisor.linux.netns import Listeners
from supervisor.oci.spec import AUTHORITIES_ENV, AUTHORITIES_PATH
from supervisor.profile.model import EffectiveProfile, EgressRule, Inspect, PortRange, SecretUse
from supervisor.sandbox import door as module
from supervisor.sandbox.door import BROKER_ID, CallDoor, EgressOptions, unnamed
from supervisor.sandbox.secrets import CallSecrets, Secrets, SecretSource
from tests.support.records import make_profile

HTTPS = (PortRange(low=443, high=443),)
RULES = (
    EgressRule(host="api.github.com", ports=HTTPS, why="Tests."),
    EgressRule(host="*.example.com", ports=HTTPS, why="Tests."),
    EgressRule(cidr="10.2.0.0/24", ports=(PortRange(low=5432, high=5433),), why="Tests."),
)
UID_BASE = 1_900_000_000


@dataclass
class FakeFence:
    opened: list[tuple[int, Door]] = field(default_factory=list)
    stands: bool = True

    def open_door(self, cgroup_id: int, door: Door) -> None:
        self.opened.append((cgroup_id, door))

    def door_stands(self, cgroup_id: int, door: Door) -> bool:
        return self.stands and (cgroup_id, door) in self.opened

    def origins_fd(self) -> int:
        return 99


class FakeBroker:
    alive = True
    finished = closed = False

    async def finish(self, *, drain: bool = False) -> None:
        self.finished = drain

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeZygote:
    orders: list[Order] = field(default_factory=list)
    tells: list[Callable[[Any], None]] = field(default_factory=list)
    broker: FakeBroker = field(default_factory=FakeBroker)

    async def start_broker(
        self, order: Order, tell: Callable[[Any], None], fail: Callable[[Exception], None]
    ) -> Broker:
        self.orders.append(order)
        self.tells.append(tell)
        return cast("Broker", self.broker)


@dataclass
class Made:
    fence: FakeFence
    zygote: FakeZygote
    door: CallDoor


def made(
    egress: tuple[EgressRule, ...] = RULES,
    secrets: tuple[SecretUse, ...] = (),
    options: EgressOptions | None = None,
) -> Made:
    base = make_profile()
    limits = replace(base.limits, egress_bytes=1000)
    profile: EffectiveProfile = replace(base, egress=egress, secrets=secrets, limits=limits)
    fence, zygote = FakeFence(), FakeZygote()
    door = CallDoor(
        fence=cast("Fence", fence),
        zygote=cast("Zygote", zygote),
        call_id="call-1",
        profile=profile,
        uid_base=UID_BASE,
        options=options or EgressOptions(),
        secrets=CallSecrets((options or EgressOptions()).secrets),
    )
    return Made(fence=fence, zygote=zygote, door=door)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Open no sockets, and say for whom they were asked for."""
    asked: list[int] = []

    def listeners(pid: int, **ports: int) -> Listeners:
        assert ports == {"door_port": 1, "dns_port": 53, "backlog": 512}
        asked.append(pid)
        return cast("Listeners", Closable())

    monkeypatch.setattr(module, "open_listeners", listeners)
    return asked


class Closable:
    closed = False

    def close(self) -> None:
        self.closed = True


def denied(detail: str, wall: Wall = Wall.NETWORK) -> Denied:
    return Denied(wall=wall, name="connect", detail=detail, rule="egress: nothing is allowed")


def test_the_kernel_gets_the_rows_of_the_plan() -> None:
    one = made()
    one.door.let(7)
    ((cgroup_id, door),) = one.fence.opened
    assert cgroup_id == 7
    assert door.port == module.DOOR_PORT
    assert {(place.prefix, place.ports) for place in door.places} == {
        (128, ((443, 443),)),
        (118, ((443, 443),)),
        (120, ((5432, 5433),)),
    }


def test_who_waits_to_be_accepted_keeps_its_row() -> None:
    """Else a burst of connections that end at once would be told as none of the kernel's."""
    assert layout.FLOWS_ENDED_MAX >= module.BACKLOG


def test_what_the_broker_is_told(opened: list[int]) -> None:
    options = EgressOptions(resolvers=(("192.0.2.53", 53), ("2001:db8::53", 5353)))
    one = made(options=options)

    async def scenario() -> None:
        await one.door.prepare()
        one.door.let(7)
        await one.door.open(4711, lambda events: None, lambda error: None)

    asyncio.run(scenario())
    (order,) = one.zygote.orders
    assert opened == [4711]
    assert (order.call_id, order.call, order.uid) == ("call-1", 7, UID_BASE + BROKER_ID)
    assert order.rules == RULES
    assert order.egress_bytes == 1000
    assert order.origins_fd == 99
    assert order.resolvers == ("192.0.2.53:53", "[2001:db8::53]:5353")
    assert order.authority is None
    assert cast("Closable", order.listeners).closed  # the broker has the only ones that are left


def test_without_a_broker_that_lives_or_rows_that_stand_it_is_no_door(opened: list[int]) -> None:
    one = made()
    with pytest.raises(HostError, match="no broker"):
        one.door.require()

    async def scenario() -> None:
        one.door.let(7)
        await one.door.open(4711, lambda events: None, lambda error: None)
        one.door.require()
        one.fence.stands = False
        with pytest.raises(HostError, match="rows"):
            one.door.require()
        one.fence.stands = True
        one.zygote.broker.alive = False
        with pytest.raises(HostError, match="no broker") as caught:
            one.door.require()
        assert caught.value.reason == "WALL_NOT_STANDING"
        await one.door.finish(drain=True)
        one.door.close()

    asyncio.run(scenario())
    assert one.zygote.broker.finished
    assert one.zygote.broker.closed


def test_what_the_broker_tells_goes_on_but_for_names(opened: list[int]) -> None:
    one = made()
    told: list[Any] = []
    flow = Flow(name="a.example.com", address="", port=443, rule="", verdict=Verdict.FAILED)
    lost = Lost(what="flow", count=1, reason="RECORD_BUDGET")

    async def scenario() -> None:
        one.door.let(7)
        await one.door.open(4711, told.extend, lambda error: None)
        for event in (flow, NameTaken(name="a.example.com", number=BLOCKS_START), lost):
            one.zygote.tells[0](event)

    asyncio.run(scenario())
    assert told == [flow, lost]
    named = one.door.named(denied("198.19.0.0:22 tcp"))
    assert named.detail == "198.19.0.0:22 tcp (a.example.com)"
    assert named.rule == "egress: no rule for a.example.com:22"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("evil.example.org", BLOCKS_START),  # below no star of the profile
        ("a.example.com", BLOCKS_START + BLOCK_NAMES),  # of no block
        ("a.example.com", BLOCKS_START - 1),
        ("api.github.com", 2),  # written out: it has its number
        ("a.example.com", 1),  # which is api.github.com's
        ("a.example.com", BLOCKS_START + 1),  # has a name already
        ("A.example.com", BLOCKS_START),
        ("a\n.example.com", BLOCKS_START),
    ],
)
def test_a_broker_gives_names_no_address_but_their_own(
    opened: list[int], name: str, number: int
) -> None:
    one = made()

    async def scenario() -> None:
        one.door.let(7)
        await one.door.open(4711, lambda events: None, lambda error: None)
        one.zygote.tells[0](NameTaken(name="api.github.com", number=1))  # as it is written out
        one.zygote.tells[0](NameTaken(name="b.example.com", number=BLOCKS_START + 1))
        with pytest.raises(BrokerFailed) as caught:
            one.zygote.tells[0](NameTaken(name=name, number=number))
        assert caught.value.reason == "BROKER_MESSAGE_INVALID"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("detail", "more", "rule"),
    [
        ("198.18.0.1:22 tcp", " (api.github.com)", "egress: no rule for api.github.com:22"),
        ("198.18.0.1:443 udp", " (api.github.com)", "egress: TCP only"),
        ("198.18.0.1:443 tcp: too many", " (api.github.com)", "egress: 1024 at a time"),
        (
            "[fd40:b1a3:129e::1]:22 tcp",
            " (api.github.com)",
            "egress: no rule for api.github.com:22",
        ),
        ("203.0.113.9:443 tcp", "", "egress: no rule for 203.0.113.9:443"),
        ("[2001:db8::9]:443 tcp", "", "egress: no rule for [2001:db8::9]:443"),
        ("10.2.0.9:5432 udp", "", "egress: TCP only"),
        ("10.2.0.9:22 tcp", "", "egress: no rule for 10.2.0.9:22"),
        ("169.254.169.254:80", "", "egress: no rule for 169.254.169.254:80"),
    ],
)
def test_a_denial_says_which_rule_there_is_none_of(detail: str, more: str, rule: str) -> None:
    named = made().door.named(denied(detail))
    assert (named.detail, named.rule) == (detail + more, rule)
    assert unnamed(named.detail) == detail


@pytest.mark.parametrize(
    "detail", ["inet raw icmp", "places differ", "inet option 35: join a group"]
)
def test_other_denials_stay_as_they_are(detail: str) -> None:
    assert made().door.named(denied(detail)) == denied(detail)
    other = denied("198.18.0.1:22 tcp", Wall.SYSCALL)
    assert made().door.named(other) == other


def test_secrets_stay_with_the_broker(tmp_path: Path, opened: list[int]) -> None:
    file = tmp_path / "token"
    file.write_text("the-value\n")
    file.chmod(0o600)
    secrets = Secrets(sources={"github": SecretSource(file=str(file))})
    use = SecretUse(
        name="github", header="Authorization", host="api.github.com", env="GITHUB_TOKEN"
    )
    one = made(secrets=(use,), options=EgressOptions(secrets=secrets))

    async def scenario() -> None:
        await one.door.prepare()
        one.door.let(7)
        await one.door.open(4711, lambda events: None, lambda error: None)

    asyncio.run(scenario())
    (secret,) = one.zygote.orders[0].secrets
    assert (secret.name, secret.header, secret.host) == ("github", "Authorization", use.host)
    assert secret.value == "the-value"
    assert one.door.environment() == {"GITHUB_TOKEN": secret.placeholder.encode()}
    assert "the-value" not in f"{secret!r}{one.zygote.orders[0]!r}{one.door.environment()}"
    assert one.door.write_authorities(tmp_path) == ""


def test_a_secret_for_two_hosts_has_one_placeholder(tmp_path: Path) -> None:
    """The program has one variable for it, and does not know where a request will go."""
    file = tmp_path / "token"
    file.write_text("the-value")
    file.chmod(0o600)
    secrets = Secrets(sources={"github": SecretSource(file=str(file))})
    uses = tuple(
        SecretUse(name="github", header="Authorization", host=host, env="GITHUB_TOKEN")
        for host in ("api.github.com", "a.example.com")
    )
    door = made(secrets=uses, options=EgressOptions(secrets=secrets)).door
    asyncio.run(door.prepare())
    ((name, placeholder),) = door.environment().items()
    found = door._secrets
    assert [secret.host for secret in found] == ["api.github.com", "a.example.com"]
    assert {(name, placeholder)} == {("GITHUB_TOKEN", one.placeholder.encode()) for one in found}


def test_a_secret_that_cannot_be_had_keeps_the_call_from_starting() -> None:
    use = SecretUse(
        name="github", header="Authorization", host="api.github.com", env="GITHUB_TOKEN"
    )
    with pytest.raises(HostError) as caught:
        asyncio.run(made(secrets=(use,)).door.prepare())
    assert caught.value.reason == "SECRET_UNAVAILABLE"


def test_an_authority_where_tls_is_terminated(tmp_path: Path) -> None:
    rule = replace(RULES[0], inspect=Inspect.TERMINATE)
    one, other = made((rule,)), made((rule,))
    for door in (one.door, other.door):
        asyncio.run(door.prepare())
    assert one.door.environment() == dict.fromkeys(AUTHORITIES_ENV, AUTHORITIES_PATH.encode())
    path = one.door.write_authorities(tmp_path)
    text = Path(path).read_text()
    assert text.count("BEGIN CERTIFICATE") > 1
    assert "PRIVATE KEY" not in text
    assert other.door.write_authorities(tmp_path) == path
    assert Path(path).read_text() != text  # one of its own for each call


def test_the_authorities_of_the_configuration_are_read_by_the_daemon(
    tmp_path: Path, opened: list[int]
) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("the configured")
    rule = replace(RULES[0], inspect=Inspect.TERMINATE)

    async def scenario(one: Made) -> None:
        await one.door.prepare()
        one.door.let(7)
        await one.door.open(4711, lambda events: None, lambda error: None)

    one = made((rule,), options=EgressOptions(authorities=file))
    asyncio.run(scenario(one))
    assert one.zygote.orders[0].authorities == "the configured"
    one = made((rule,))
    asyncio.run(scenario(one))
    assert "BEGIN CERTIFICATE" in one.zygote.orders[0].authorities
    empty = tmp_path / "empty"
    empty.write_text("")  # nobody is not everybody
    for path in (tmp_path / "none", empty):
        one = made((rule,), options=EgressOptions(authorities=path))
        with pytest.raises(HostError) as caught:
            asyncio.run(scenario(one))
        assert caught.value.reason == "AUTHORITIES_MISSING"
        assert str(path) in caught.value.hint
        assert str(path) not in caught.value.message  # which an agent is told


def test_a_host_that_trusts_nobody_leaves_the_sandbox_its_own_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminate, "HOST_AUTHORITIES", ())
    file = tmp_path / "ca.pem"
    file.write_text("the configured")
    rule = replace(RULES[0], inspect=Inspect.TERMINATE)
    door = made((rule,), options=EgressOptions(authorities=file)).door
    asyncio.run(door.prepare())
    text = Path(door.write_authorities(tmp_path)).read_text()
    assert text.count("BEGIN CERTIFICATE") == 1
    with pytest.raises(HostError) as caught:
        asyncio.run(made((rule,)).door.prepare())
    assert caught.value.reason == "AUTHORITIES_MISSING"
