"""One call's way out: rows in the kernel, listeners in its network namespace, and its broker.

prepare   secrets get their values, and an authority is made where TLS is terminated
let       the kernel leads what is allowed to the door, which nobody has opened yet
open      listeners, before the program runs, and a broker behind them
require   all of it is looked at again
finish    flows are ended and told

The daemon itself never reads what comes through: it opens sockets and gives them away. Without a
broker nobody answers at the door, and a broker that dies ends its call.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from supervisor.bpf.doors import Door, Place
from supervisor.bpf.fence import Fence
from supervisor.call.events import Denied, Flow, Lost, Wall
from supervisor.egress.client import Broker, Order, Zygote
from supervisor.egress.control import Authority, BrokerEvent, NameTaken, Secret, make_placeholder
from supervisor.egress.plan import Plan, number_at
from supervisor.errors import BrokerFailed, HostError, InvariantError
from supervisor.linux.netns import Listeners, open_listeners
from supervisor.oci.spec import AUTHORITIES_ENV, AUTHORITIES_PATH
from supervisor.profile.hosts import HostnameError, canonical
from supervisor.profile.model import EffectiveProfile, Inspect, terminates
from supervisor.sandbox.secrets import CallSecrets, Secrets

DOOR_PORT = 1
"""Below 1024, where no program of a sandbox listens, and not one that anybody looks for."""

DNS_PORT = 53
BACKLOG = 512
FLOWS_MAX = 1024
BROKER_ID = 65_000
"""The broker's own, of the ids that the call has leased: nobody else's, in the sandbox or out."""

_PLACE = re.compile(r"\[?([0-9a-f.:]+)\]?:(\d+)(?: ([a-z0-9]+))?(?:: [a-z ]+)?")
_NAMED = re.compile(r" \([^ ()]+\)$")

Event = Flow | Denied | Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressOptions:
    """What the daemon is told of egress: `resolvers` are address and port of each, the host's own
    where there are none; `authorities` is a file of those that may vouch for a far side whose TLS
    is terminated, those of the host where there is none."""

    resolvers: tuple[tuple[str, int], ...] = ()
    authorities: Path | None = None
    secrets: Secrets = field(default_factory=Secrets)


class CallDoor:
    """The way out of one call whose profile has `egress`."""

    def __init__(
        self,
        *,
        fence: Fence,
        zygote: Zygote,
        call_id: str,
        profile: EffectiveProfile,
        uid_base: int,
        options: EgressOptions,
        secrets: CallSecrets,
    ) -> None:
        """Take what a door is made of; nothing is opened yet."""
        self._fence = fence
        self._zygote = zygote
        self._call_id = call_id
        self._profile = profile
        self._uid = uid_base + BROKER_ID
        self._options = options
        self._sources = secrets
        self._plan = Plan.of(profile.egress)
        self._names = {number: name for name, number in self._plan.numbers.items()}
        self._secrets: tuple[Secret, ...] = ()
        self._authority: Authority | None = None
        self._trusted = ""
        self._cgroup_id = 0
        self._door = Door(
            port=DOOR_PORT,
            places=tuple(
                Place(
                    address=row.address,
                    prefix=row.prefix,
                    ports=tuple((one.low, one.high) for one in row.ports),
                )
                for row in self._plan.rows
            ),
            flows_max=FLOWS_MAX,
        )
        self._broker: Broker | None = None
        self._tell: Callable[[Sequence[Event]], None] | None = None

    async def prepare(self) -> None:
        """Read the secrets, and make an authority where the profile asks for one.

        Raises:
            HostError: `SECRET_UNAVAILABLE`, `AUTHORITIES_MISSING`.
        """
        held: dict[str, tuple[str, str]] = {}
        for name in sorted({use.name for use in self._profile.secrets}):
            # One for all its uses: a program has one variable for a secret, wherever that goes.
            held[name] = make_placeholder(name), await self._sources.value(name)
        self._secrets = tuple(
            Secret(name=use.name, header=use.header, host=use.host, placeholder=held[use.name][0],
                   value=held[use.name][1])
            for use in self._profile.secrets
        )  # fmt: skip
        if terminates(self._profile):
            # Large, and not needed by calls without: loaded by the first that asks for it.
            from supervisor.egress.terminate import make_authority

            hosts = [r.host for r in self._profile.egress if r.inspect is Inspect.TERMINATE]
            self._authority = await asyncio.to_thread(make_authority, hosts)
            self._trusted = self._trusted_of_host()

    def _trusted_of_host(self) -> str:
        from supervisor.egress.terminate import host_authorities

        path = self._options.authorities
        try:
            found = path.read_text() if path is not None else host_authorities()
            if not found:  # The broker would take the host's instead.
                raise FileNotFoundError(f"{path or 'the file of the host'} is empty")
        except (OSError, UnicodeDecodeError) as error:
            raise HostError(
                "AUTHORITIES_MISSING",
                "nobody could vouch for a far side: its authorities cannot be read",
                hint=f"{error}: apt-get install ca-certificates, or egress: {{ca: /path}} in the "
                "configuration",
            ) from error
        return found

    def environment(self) -> dict[str, bytes]:
        """Give the variables that the program finds: placeholders, where its authorities are."""
        uses = zip(self._profile.secrets, self._secrets, strict=True)
        found = {use.env: secret.placeholder.encode() for use, secret in uses}
        if self._authority is not None:
            found |= dict.fromkeys(AUTHORITIES_ENV, AUTHORITIES_PATH.encode())
        return found

    def write_authorities(self, folder: Path) -> str:
        """Write the authorities that the sandbox trusts into a file of `folder`; give its path, ""
        where they are those of its image."""
        if self._authority is None:
            return ""
        from supervisor.egress.terminate import host_authorities

        try:
            others = host_authorities()
        except FileNotFoundError:
            others = ""  # Whom no host trusts, its sandbox does not trust either.
        path = folder / "authorities.pem"
        path.write_text(f"{others}\n{self._authority.certificate}")
        path.chmod(0o644)
        return os.fspath(path)

    def let(self, cgroup_id: int) -> None:
        """Have the kernel lead what is allowed to the door; the fence forgets it with the call.

        Raises:
            CapacityError: `FLOWS_EXHAUSTED`.
            HostError: `WALL_NOT_STANDING`.
        """
        self._cgroup_id = cgroup_id
        self._fence.open_door(cgroup_id, self._door)

    async def open(
        self, pid: int, tell: Callable[[Sequence[Event]], None], fail: Callable[[Exception], None]
    ) -> None:
        """Open the listeners in the network namespace of `pid`, and start the broker behind them.

        Raises:
            BrokerFailed: `BROKER_NOT_STARTED`.
            OSError: as the kernel says of the sockets.
        """
        self._tell = tell
        listeners = open_listeners(pid, door_port=DOOR_PORT, dns_port=DNS_PORT, backlog=BACKLOG)
        try:
            self._broker = await self._zygote.start_broker(self._order(listeners), self._told, fail)
        finally:
            # The broker's alone from here on: with it, the last one that answers is gone.
            listeners.close()

    def _order(self, listeners: Listeners) -> Order:
        return Order(
            call_id=self._call_id,
            call=self._cgroup_id,
            uid=self._uid,
            rules=self._profile.egress,
            secrets=self._secrets,
            egress_bytes=self._profile.limits.egress_bytes,
            listeners=listeners,
            origins_fd=self._fence.origins_fd(),
            resolvers=tuple(_endpoint(*one) for one in self._options.resolvers),
            flows_max=FLOWS_MAX,
            authority=self._authority,
            authorities=self._trusted,
        )

    def _told(self, event: BrokerEvent) -> None:
        if isinstance(event, NameTaken):
            self._take_name(event)
        elif self._tell is None:
            raise InvariantError("TOLD_BEFORE_OPEN", "a broker tells before it was started")
        else:
            self._tell([event])

    def _take_name(self, taken: NameTaken) -> None:
        """Believe a broker what a name's address is where it can be so; the first word holds."""
        known = self._names.get(taken.number)
        if known == taken.name:
            return
        if known is not None or not _is_taken_right(self._plan, taken):
            raise BrokerFailed(
                "BROKER_MESSAGE_INVALID", f"a broker gave {taken.name!a} the number {taken.number}"
            )
        self._names[taken.number] = taken.name

    def require(self) -> None:
        """Read the door back.

        Raises:
            HostError: `WALL_NOT_STANDING`.
        """
        try:
            faults = list(self._faults())
        except OSError as error:
            # What cannot be looked at does not stand.
            faults = [f"egress: {error}"]
        if faults:
            raise HostError("WALL_NOT_STANDING", "; ".join(faults), hint="stockade doctor")

    def _faults(self) -> Iterator[str]:
        if self._broker is None or not self._broker.alive:
            yield "egress: the call has no broker"
        if not self._fence.door_stands(self._cgroup_id, self._door):
            yield "egress: the kernel's rows are not those of the profile"

    async def finish(self, *, drain: bool) -> None:
        """End what still flows and have it told; every process of the call is dead. With `drain`,
        what they had sent is passed on first."""
        if self._broker is not None:
            await self._broker.finish(drain=drain)

    def close(self) -> None:
        """Kill the broker where it still lives."""
        if self._broker is not None:
            self._broker.close()

    def named(self, denied: Denied) -> Denied:
        """Say of a denial of the kernel's which name its address stands for, and which rule there
        would have to be."""
        found = _PLACE.fullmatch(denied.detail)
        if denied.wall is not Wall.NETWORK or found is None:
            return denied
        ip, port = ip_address(found[1]), int(found[2])
        name = self._names.get(number_at(ip), "")
        place = name or found[1]
        rule = f"egress: no rule for {_endpoint(place, port)}"
        if self._plan.decide(name or ip, port) is not None:
            rule = "egress: TCP only" if found[3] != "tcp" else f"egress: {FLOWS_MAX} at a time"
        return replace(
            denied, detail=f"{denied.detail} ({name})" if name else denied.detail, rule=rule
        )


def _is_taken_right(plan: Plan, taken: NameTaken) -> bool:
    try:
        return canonical(taken.name) == taken.name and plan.may_have(taken.name, taken.number)
    except HostnameError:
        return False


def unnamed(detail: str) -> str:
    """Undo what `CallDoor.named` does to the detail of a denial."""
    return _NAMED.sub("", detail)


def _endpoint(place: str, port: int) -> str:
    return f"[{place}]:{port}" if ":" in place else f"{place}:{port}"
