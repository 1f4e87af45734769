"""Judge the head of a request by the rule that let its connection through. Pure.

What may go on is given back as the headers to write anew: Host in its one spelling, nothing that is
for a single connection only, nothing that speaks of a method, path or host other than the checked.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import h11

from supervisor.egress import paths
from supervisor.egress.head import CHUNKED, shown
from supervisor.profile import hosts
from supervisor.profile.model import EgressRule

Headers = list[tuple[bytes, bytes]]

MALFORMED, FORBIDDEN = 400, 403


class RequestRefused(Exception):
    """A request that may not go on; `status` is what its client is told."""

    def __init__(self, reason: str, status: int = FORBIDDEN, *, name: str = "http") -> None:
        super().__init__(reason)
        self.reason, self.status, self.name = reason, status, name


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What is sent on of a request: `headers`; `upgrade` where it asks for a WebSocket, `close`
    where its client wants no further one on the connection."""

    headers: Headers
    upgrade: bool
    close: bool


_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"expect",
    b"content-length", b"transfer-encoding", b"host",
})  # fmt: skip
"""Of one connection only, or written anew here."""
_OPTIONS = frozenset({b"close", b"keep-alive", b"upgrade", b"te"})
"""What `Connection` may name: a header that is named there would be taken out by a proxy."""
_OTHER_HOST = frozenset({
    b"forwarded", b"x-forwarded-host", b"x-forwarded-server", b"x-host", b"x-original-host",
    b"x-http-host-override", b"http2-settings",
})  # fmt: skip
_OTHER_METHOD = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})
_OTHER_PATH = frozenset({b"x-original-url", b"x-rewrite-url"})
_GUARDED = _HOP | _OTHER_HOST | _OTHER_METHOD | _OTHER_PATH


def admit(
    request: h11.Request, framing: int | None, *, name: str, port: int, rule: EgressRule
) -> Admitted:
    """Check a request that goes to `name`, canonical or an address, at `port`.

    Raises:
        RequestRefused: with the reason.
    """
    if request.http_version not in {b"1.0", b"1.1"}:
        raise RequestRefused(f"HTTP/{request.http_version.decode()}", MALFORMED)
    old = request.http_version == b"1.0"
    if old and framing == CHUNKED:
        raise RequestRefused("Transfer-Encoding in HTTP/1.0", MALFORMED)
    _check_method(request.method, rule)
    _check_target(request.method, request.target, rule)
    named: dict[bytes, list[bytes]] = {}
    kept: Headers = []
    for raw, value in request.headers.raw_items():
        header = raw.lower()
        if header in _GUARDED:
            named.setdefault(header, []).append(value)
        elif b"_" in header and header.replace(b"_", b"-") in _GUARDED:
            raise RequestRefused(f"the header {shown(raw)}, which can shadow another", MALFORMED)
        else:
            kept.append((raw, value))
    _check_overrides(named, rule)
    headers = [(b"Host", _host(named.get(b"host", []), name, port)), *kept]
    options = _options(named)
    upgrade = _upgrade(request, framing, named, options, kept)
    if upgrade:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    elif old or b"close" in options:
        headers.append((b"Connection", b"close"))
    if _expects(named) and not old:
        headers.append((b"Expect", b"100-continue"))
    if framing is not None:
        headers.append(
            (b"Transfer-Encoding", b"chunked")
            if framing == CHUNKED
            else (b"Content-Length", b"%d" % framing)
        )
    return Admitted(headers=headers, upgrade=upgrade, close=old or b"close" in options)


def _check_method(method: bytes, rule: EgressRule) -> None:
    if method == b"CONNECT":
        raise RequestRefused("the method CONNECT")
    allowed = rule.methods
    if method == b"TRACE" and "TRACE" not in allowed:
        raise RequestRefused("the method TRACE, which the rule does not name")
    if allowed and method.decode("ascii") not in allowed:
        raise RequestRefused(f"the method {shown(method)}, not {', '.join(allowed)}")


def _check_target(method: bytes, target: bytes, rule: EgressRule) -> None:
    if target == b"*":
        if method != b"OPTIONS":
            raise RequestRefused("the target *", MALFORMED)
        if rule.paths:
            raise RequestRefused("OPTIONS * where the rule has paths")
        return
    if not target.startswith(b"/"):
        form = "absolute" if b"://" in target else "authority"
        raise RequestRefused(f"a target in {form} form: {shown(target)}", MALFORMED)
    if b"#" in target:
        raise RequestRefused("a fragment in the target", MALFORMED)
    if not rule.paths:
        return
    path = target.partition(b"?")[0]
    try:
        plain = paths.comparable(path)
    except paths.PathError as error:
        raise RequestRefused(f"{error}: {shown(path)}", MALFORMED) from None
    if not paths.allowed(rule.paths, plain):
        raise RequestRefused(f"the path {shown(path)}, not {', '.join(rule.paths)}")


def _check_overrides(named: dict[bytes, list[bytes]], rule: EgressRule) -> None:
    refused = _OTHER_HOST
    if rule.methods:
        refused |= _OTHER_METHOD
    if rule.paths:
        refused |= _OTHER_PATH
    for header in named.keys() & refused:
        raise RequestRefused(f"the header {header.decode()}")


def _host(values: list[bytes], name: str, port: int) -> bytes:
    """Give Host as it is written anew: with a port where the client wrote one, since signatures
    may cover it."""
    if len(values) != 1:
        raise RequestRefused(f"{len(values)} Host headers", MALFORMED)
    text = values[0].decode("latin-1")
    bare, colon, digits = text, "", ""
    if not text.endswith("]") and ":" in text:
        bare, colon, digits = text.rpartition(":")
    if colon and digits != str(port):
        raise RequestRefused(f"Host {shown(values[0])} where port {port} was asked for")
    if not _is_same(bare, name):
        raise RequestRefused(f"Host {shown(values[0])} where {name} was asked for")
    written = f"[{name}]" if ":" in name else name
    return (written + colon + digits).encode("ascii")


def _is_same(bare: str, name: str) -> bool:
    if bare == name and ":" not in name:
        return True
    try:
        return hosts.canonical(bare) == name
    except hosts.HostnameError:
        return _is_same_address(bare, name)


def _is_same_address(bare: str, name: str) -> bool:
    bracketed = bare.startswith("[") and bare.endswith("]")
    try:
        said = ipaddress.ip_address(bare[1:-1] if bracketed else bare)
        return said == ipaddress.ip_address(name) and bracketed == (said.version == 6)
    except ValueError:
        return False


def _options(named: dict[bytes, list[bytes]]) -> set[bytes]:
    values = b",".join(named.get(b"connection", [])).lower().split(b",")
    options = {value.strip() for value in values} - {b""}
    if other := options - _OPTIONS:
        raise RequestRefused(f"Connection {shown(min(other))}", MALFORMED)
    return options


def _upgrade(
    request: h11.Request,
    framing: int | None,
    named: dict[bytes, list[bytes]],
    options: set[bytes],
    kept: Headers,
) -> bool:
    """Say whether a WebSocket is asked for (RFC 6455, section 4.1); all else is not upgraded to."""
    values = named.get(b"upgrade", [])
    if not values:
        return False
    keys = sum(raw.lower() == b"sec-websocket-key" for raw, _ in kept)
    right = (
        [value.lower() for value in values] == [b"websocket"]
        and b"upgrade" in options
        and request.method == b"GET"
        and request.http_version == b"1.1"
        and keys == 1
        and framing in {None, 0}
    )
    if not right:
        raise RequestRefused(f"an upgrade to {shown(b', '.join(values))}")
    return True


def _expects(named: dict[bytes, list[bytes]]) -> bool:
    values = named.get(b"expect", [])
    if values and [value.lower() for value in values] != [b"100-continue"]:
        raise RequestRefused(f"Expect {shown(b', '.join(values))}", MALFORMED)
    return bool(values)
