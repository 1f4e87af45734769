"""The door for `egress:` and `secrets:`: who may be reached, and what is sent there in whose name.

Hosts, networks and ports are brought into one spelling here, so that two layers that mean the same
place name the same rule.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, InstanceOf, model_validator

from supervisor.profile import addresses, hosts
from supervisor.profile.fields import CLOSED, EnvName, Name, Why
from supervisor.profile.model import (
    PORT_RANGES_MAX,
    EgressRule,
    Inspect,
    PortRange,
    SecretUse,
    united,
)
from supervisor.profile.yaml_source import did_you_mean, refuse

PORT_MAX = 65_535
SECRETS_MAX = 16
METHODS_MAX = 16
PATHS_MAX = 32
PATH_CHARACTERS_MAX = 256

CIDR_BITS_MIN = {4: 8, 6: 16}
"""A wider network is no place any more."""

READ_BY = (Inspect.HTTP, Inspect.TERMINATE)
"""What lets the broker see requests: their methods, paths and headers."""

SECRET_VARIABLE = "STOCKADE_SECRET_"  # noqa: S105 - the beginning of a variable's name

_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_PORTS = re.compile(r"([0-9]{1,6})-([0-9]{1,6})", re.ASCII)
_METHOD = re.compile(r"[A-Z][A-Z0-9-]{0,31}", re.ASCII)
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()+,;=:@/-]*\*?", re.ASCII)
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)

NO_METHOD = {
    "CONNECT": "it would make a tunnel of the connection",
    "TRACE": "it sends back what the broker has put in",
}
NO_SECRET = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection",
    "te", "trailer", "upgrade", "expect", "forwarded", "x-forwarded-host", "x-forwarded-server",
    "x-host", "x-original-host", "x-http-host-override", "http2-settings", "x-http-method",
    "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url",
    "destination",
})  # fmt: skip
"""Headers that say what a request is, where it goes, or where it ends: the broker writes them
itself, or refuses a request that has them."""


def parse_host(text: str) -> str:
    """Give the one spelling of a host, or of `*.suffix`."""
    try:
        host = hosts.canonical_pattern(text) if text.startswith("*") else hosts.canonical(text)
    except hosts.HostnameError as error:
        raise refuse(error.message, error.hint) from error
    if host in addresses.METADATA_NAMES:
        raise refuse(
            f"{host} can never be reached: it leads to metadata",
            "no call gets the host's credentials: leave this rule out",
        )
    return host


_NEVER_HINTS = {
    "loopback": "the sandbox's own loopback needs no rule; the host's is out of reach",
    "metadata": "no call gets the host's credentials; name networks that leave it out",
    "synthetic": "these stand for names inside of sandboxes; write host: with the name",
}


def parse_cidr(text: str) -> str:
    """Give the one spelling of a network that may be reached."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise refuse(f"{text!r} is not a network", "write it as 10.2.0.0/24") from error
    bare, slash, bits = text.partition("/")
    if not slash:
        raise refuse(f"{text} is an address, not a network", f"write {network} for just this one")
    if not bits.isdecimal() or "%" in bare:
        raise refuse(f"{text!r} is not a network", f"write {network}")
    if ipaddress.ip_address(bare) != network.network_address:
        alone = f"{bare}/{network.max_prefixlen}"
        raise refuse(
            f"{text} has bits set outside its {bits} bits",
            f"write {network}, or {alone} for just this address",
        )
    if (plain := addresses.unmapped(network)) != network:
        raise refuse(f"{text} is IPv4 written as IPv6", f"write {plain}")
    if network.prefixlen < CIDR_BITS_MIN[network.version]:
        raise refuse(
            f"{text} is too wide: a profile names what it reaches",
            f"at least /{CIDR_BITS_MIN[network.version]}; a host by its name needs no network",
        )
    if why := addresses.never_in(network):
        kind = why.partition(" ")[0]
        raise refuse(f"{text} can never be allowed: it holds {why}", _NEVER_HINTS.get(kind, ""))
    return str(network)


def _cidr(value: object) -> object:
    return parse_cidr(value) if isinstance(value, str) else value


def _listed(value: object) -> object:
    if isinstance(value, list) and not value:
        raise refuse("must name a port")
    return value if isinstance(value, list) else [value]


def _ports(value: object) -> PortRange:
    if isinstance(value, int) and not isinstance(value, bool):
        return PortRange(low=_port(value), high=_port(value))
    if not isinstance(value, str):
        raise refuse("must be a port", 'write 443, [443, 8443] or "8000-8100"')
    if _NUMBER.fullmatch(value):
        raise refuse(f"{value!r} is a text", f"write {int(value)} without quotes")
    found = _PORTS.fullmatch(value)
    if found is None:
        raise refuse(f"{value!r} is not a port", 'write 443, [443, 8443] or "8000-8100"')
    low, high = _port(int(found[1])), _port(int(found[2]))
    if low > high:
        raise refuse(f"{value} is empty", f"write {high}-{low}")
    return PortRange(low=low, high=high)


def _port(number: int) -> int:
    if not 1 <= number <= PORT_MAX:
        raise refuse(f"{number} is not a port: they are 1 to {PORT_MAX}")
    return number


def _few_ranges(ranges: list[PortRange]) -> list[PortRange]:
    found = united(ranges)
    if len(found) > PORT_RANGES_MAX:
        raise refuse(
            f"{len(found)} ranges of ports: a place has at most {PORT_RANGES_MAX}",
            'write neighbours as one: "8000-8100"',
        )
    return list(found)


def _inspect(value: object) -> object:
    if not isinstance(value, str):
        raise refuse("must be a string", "write tls, http, none or tls-terminate")
    try:
        return Inspect(value)
    except ValueError:
        known = [str(one) for one in Inspect]
        hint = did_you_mean(value.lower(), known) or f"write {', '.join(known)}"
        if value.lower() == "https":  # closest to `http`, which is what it is not
            hint = "write tls, which sees the server name, or tls-terminate, which reads requests"
        raise refuse(f"{value!r} is not a way to inspect", hint) from None


def _method(text: str) -> str:
    if text.upper() in NO_METHOD:
        raise refuse(f"{text} can never be allowed: {NO_METHOD[text.upper()]}")
    if not _METHOD.fullmatch(text):
        upper = text.upper()
        hint = f"write {upper}" if _METHOD.fullmatch(upper) else "write GET, POST, …"
        raise refuse(f"{text!r} is not a method", hint)
    return text


def _request_path(text: str) -> str:
    if not text.startswith("/"):
        raise refuse(f"{text!r} is not a path", "begin with /")
    if len(text) > PATH_CHARACTERS_MAX:
        raise refuse(f"is longer than {PATH_CHARACTERS_MAX} characters")
    if "*" in text[:-1]:
        raise refuse(f"{text!r} has a * before its end", "one * at the end stands for any rest")
    if "?" in text or "#" in text:
        raise refuse(f"{text!r} is more than a path", "what follows a ? is not looked at")
    if not _PATH.fullmatch(text):
        raise refuse(f"{text!r} has characters that no plain path has", "end it before them with *")
    if set(text.rstrip("*").split("/")) & {".", ".."} or "//" in text:
        raise refuse(f"{text!r} is not normalised", "leave out ., .. and empty parts")
    return text


def _header(text: str) -> str:
    if not _HEADER.fullmatch(text):
        raise refuse(f"{text!r} is not a header's name", "letters, digits, - and _")
    found = "-".join(part.capitalize() for part in text.split("-"))
    if text.lower().replace("_", "-") in NO_SECRET:
        raise refuse(f"{text} can never hold a secret: it says what a request is, or where it goes")
    return found


def _exact_host(text: str) -> str:
    if text.startswith("*"):
        raise refuse("a secret goes to one host, not to a pattern", "name the host")
    return parse_host(text)


def _not_empty(at_most: int) -> AfterValidator:
    def check(entries: list[str]) -> list[str]:
        if not entries:
            raise refuse("is empty", "leave the key out where any will do")
        if len(entries) > at_most:
            raise refuse(f"has {len(entries)} entries: at most {at_most}")
        return sorted(set(entries))

    return AfterValidator(check)


class EgressEntry(BaseModel):
    """A place that a call may reach over TCP."""

    model_config = CLOSED

    host: Annotated[str, AfterValidator(parse_host)] = ""
    cidr: Annotated[str, BeforeValidator(_cidr)] = ""
    port: Annotated[
        list[Annotated[InstanceOf[PortRange], BeforeValidator(_ports)]],
        BeforeValidator(_listed),
        AfterValidator(_few_ranges),
    ]
    inspect: Annotated[Inspect | None, BeforeValidator(_inspect)] = None
    private: bool = False
    methods: Annotated[list[Annotated[str, AfterValidator(_method)]], _not_empty(METHODS_MAX)] = []
    paths: Annotated[
        list[Annotated[str, AfterValidator(_request_path)]], _not_empty(PATHS_MAX)
    ] = []
    why: Why

    @model_validator(mode="after")
    def _one_place(self) -> EgressEntry:
        if bool(self.host) == bool(self.cidr):
            what = "both 'host' and 'cidr'" if self.host else "neither 'host' nor 'cidr'"
            raise refuse(f"has {what}", "give one: host: api.example.com, or cidr: 10.2.0.0/24")
        if self.cidr:
            for key in ("inspect", "private"):
                if key in self.model_fields_set:
                    raise refuse(
                        f"{key} is for hosts: under cidr: there is no name to check, and what the "
                        "network holds may be reached",
                        "leave it out",
                        below=key,
                    )
        return self

    @model_validator(mode="after")
    def _requests_are_read(self) -> EgressEntry:
        for key in ("methods", "paths"):
            if not getattr(self, key):
                continue
            rule = self.rule
            unread = [str(each) for each in rule.ports if not _read(rule, each)]
            if unread:
                raise refuse(
                    f"{key} cannot be checked at port {', '.join(unread)}: nobody reads requests "
                    "there",
                    "inspect: http for plain HTTP, or inspect: tls-terminate",
                    below=key,
                )
        return self

    @property
    def rule(self) -> EgressRule:
        """Give the rule as a plain value."""
        return EgressRule(
            host=self.host, cidr=self.cidr, ports=tuple(self.port), inspect=self.inspect,
            private=self.private, methods=tuple(self.methods), paths=tuple(self.paths),
            why=self.why,
        )  # fmt: skip


def _read(rule: EgressRule, ports: PortRange) -> bool:
    if rule.inspect is not None:
        return rule.inspect in READ_BY
    # Where the port decides, a range has one answer only if it is a single port.
    return ports.low == ports.high and rule.inspect_at(ports.low) in READ_BY


class SecretEntry(BaseModel):
    """A secret of the daemon's, for one header of requests to one host."""

    model_config = CLOSED

    name: Name
    header: Annotated[str, AfterValidator(_header)]
    host: Annotated[str, AfterValidator(_exact_host)]
    env: EnvName | None = None
    why: Why

    @property
    def use(self) -> SecretUse:
        """Give the entry as a plain value."""
        variable = self.env or SECRET_VARIABLE + self.name.upper().replace("-", "_")
        return SecretUse(
            name=self.name, header=self.header, host=self.host, env=variable, why=self.why
        )


def secret_identity(use: SecretUse) -> str:
    """Give what layers merge a secret by: one secret may be sent to several hosts."""
    return f"{use.name} in {use.header} to {use.host}"


def rule_name(text: str) -> str:
    """Give the one spelling of a rule's name, as `drop:` takes it."""
    target, colon, ports = text.rpartition(":")
    if not colon or not target or ports.endswith("]"):
        raise refuse(
            f"{text!r} names no rule", "write place and ports: [api.example.com:443]; several "
            'ports need quotes: ["api.example.com:443,8443"]',
        )  # fmt: skip
    parts = [_ports(int(each) if _NUMBER.fullmatch(each) else each) for each in ports.split(",")]
    cidr = "/" in target
    place = parse_cidr(target) if cidr else parse_host(target)
    return EgressRule(
        host="" if cidr else place, cidr=place if cidr else "", ports=united(parts)
    ).name


RuleName = Annotated[str, AfterValidator(rule_name)]
