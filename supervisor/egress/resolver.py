"""The broker's upstream: the real addresses of a name, from the host's resolver or the configured.

A and AAAA are asked for at once, of one server after the other. Whether an address may be dialled
is judged by who dials, each time: nothing here is policy. Names are asked for as they are, and no
search domain is ever added.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import dns.name
import dns.rdatatype
import dns.resolver

from supervisor.egress.upstream import (
    ADDRESSES_MAX,
    Found,
    Nameserver,
    Reason,
    exchange,
    found_in,
)
from supervisor.egress.upstream import ResolveError as ResolveError
from supervisor.profile.addresses import Address

LOOKUP_S = 8.0
"""For a name, whatever happens: less than dialling it may take."""

ROUNDS = 2
"""How often each server is asked; a datagram may be lost."""

OTHER_FAMILY_S = 0.25
"""How long the second answer is waited for once the first has addresses (RFC 8305 says 0.05, for
people who wait; some resolvers never answer AAAA)."""

SERVERS_MAX = 3
"""As many as resolv.conf(5) has."""

LOOKUPS_MAX = 32
"""At one time; others wait for their turn, within their time."""

TTL_S_MAX = 30.0
CACHE_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The addresses of a name, both families in turns; `canonical` is the name at the end of the
    chain of CNAMEs, whose addresses they are."""

    addresses: tuple[Address, ...]
    canonical: str


def host_nameservers(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """Give the host's name servers, as `Nameserver.of` reads them; to be called before the broker
    gives up its files. Without any, the one on this machine, as resolv.conf(5) has it.

    Raises:
        ValueError: one of them cannot be read.
    """
    reader = dns.resolver.Resolver(configure=False)
    try:
        reader.read_resolv_conf(str(path))
    except dns.resolver.NoResolverConfiguration:
        return (str(Nameserver.of("127.0.0.1")),)
    return tuple(str(Nameserver.of(str(one))) for one in reader.nameservers[:SERVERS_MAX])


class Resolver:
    """Resolves names by asking `nameservers`, each "ip" or "ip:port"; belongs to one event loop."""

    def __init__(
        self, nameservers: Iterable[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the servers in their order.

        Raises:
            ValueError: there is none, or one that cannot be read.
        """
        self._servers = tuple(Nameserver.of(text) for text in nameservers)[:SERVERS_MAX]
        if not self._servers:
            raise ValueError("no name server is given")
        self._clock = clock
        self._cache: dict[str, tuple[float, Answer]] = {}
        self._lookups: dict[str, asyncio.Task[Answer]] = {}
        self._turns = asyncio.Semaphore(LOOKUPS_MAX)

    async def resolve(self, name: str) -> Answer:
        """Give the addresses of the canonical `name`; who asks meanwhile gets the same answer.

        Raises:
            ResolveError: it has none, or none could be had.
        """
        until, answer = self._cache.get(name, (0.0, None))
        if answer is not None and self._clock() < until:
            return answer
        lookup = self._lookups.get(name)
        if lookup is None:
            lookup = asyncio.get_running_loop().create_task(self._lookup(name))
            self._lookups[name] = lookup
            lookup.add_done_callback(lambda task: self._looked_up(name, task))
        # Whoever gives up waiting does not take it from the others.
        return await asyncio.shield(lookup)

    def close(self) -> None:
        """Give up all lookups."""
        for lookup in self._lookups.values():
            lookup.cancel()

    def _looked_up(self, name: str, task: asyncio.Task[Answer]) -> None:
        del self._lookups[name]
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more

    async def _lookup(self, name: str) -> Answer:
        try:
            async with asyncio.timeout(LOOKUP_S), self._turns:
                found = await self._both(dns.name.from_text(name))
        except TimeoutError:
            raise ResolveError(Reason.TIMEOUT, f"no answer in {LOOKUP_S:.0f} s") from None
        answer = Answer(
            addresses=_in_turns([each.addresses for each in found]), canonical=found[0].canonical
        )
        self._keep(name, answer, min(TTL_S_MAX, *(each.ttl_s for each in found)))
        return answer

    async def _both(self, name: dns.name.Name) -> list[Found]:
        """Ask for AAAA and A; give what has addresses, AAAA first."""
        six, four = (
            asyncio.create_task(self._ask(name, rdtype))
            for rdtype in (dns.rdatatype.AAAA, dns.rdatatype.A)
        )
        asked = {six, four}
        try:
            _, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            if any(_has_addresses(task) for task in asked - waiting):
                await asyncio.wait(asked, timeout=OTHER_FAMILY_S)
            else:
                await asyncio.wait(asked)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        found = [task.result() for task in (six, four) if _has_addresses(task)]
        if found:
            return found
        raise _worst([task.exception() for task in (six, four)])

    async def _ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Found:
        failed = ResolveError(Reason.TIMEOUT, "no name server answers")
        for server in self._servers * ROUNDS:
            try:
                return found_in(await exchange(server, name, rdtype))
            except ResolveError as error:
                if error.reason in (Reason.NXDOMAIN, Reason.NO_ADDRESS):
                    raise  # an answer, if not the one that was hoped for
                failed = error
            except TimeoutError:
                failed = ResolveError(Reason.TIMEOUT, f"{server} does not answer")
            except OSError as error:
                failed = ResolveError(Reason.SERVFAIL, f"{server}: {error.strerror or error}")
        raise failed

    def _keep(self, name: str, answer: Answer, ttl_s: float) -> None:
        self._cache.pop(name, None)
        if ttl_s <= 0:
            return
        while len(self._cache) >= CACHE_MAX:
            del self._cache[next(iter(self._cache))]
        self._cache[name] = (self._clock() + ttl_s, answer)


def _in_turns(families: list[tuple[Address, ...]]) -> tuple[Address, ...]:
    """Mix the families, so that neither is left out where only the first few are dialled."""
    mixed = chain.from_iterable(zip_longest(*families))
    unique = dict.fromkeys(address for address in mixed if address is not None)
    return tuple(unique)[:ADDRESSES_MAX]


def _has_addresses(task: asyncio.Task[Found]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _worst(errors: list[BaseException | None]) -> BaseException:
    """Give what to say of a name for which both questions failed: what is an answer first."""
    known = [error for error in errors if isinstance(error, ResolveError)]
    for error in errors:
        if error is not None and not isinstance(error, ResolveError):
            return error  # a bug of ours
    order = (Reason.NXDOMAIN, Reason.MALFORMED, Reason.SERVFAIL, Reason.TIMEOUT, Reason.NO_ADDRESS)
    return min(known, key=lambda error: order.index(error.reason))
