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
    """What is sent on of a request: `headers`; `close` where its client wants no further one on the
    connection, `upgrade` where it asks for a WebSocket."""

    headers: Headers
    close: bool
    upgrade: bool


_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"expect",
    b"content-length", b"transfer-encoding", b"host",
})  # fmt: skip
"""Of one connection only, or written anew here."""
_WITHOUT_BODY = frozenset({b"GET", b"HEAD", b"DELETE", b"TRACE"})
"""A body has no meaning in these (RFC 9110, section 9.3), and some servers do not look for one."""
_OPTIONS = frozenset({b"close", b"keep-alive", b"upgrade", b"te"})
"""What `Connection` may name: a header that is named there would be taken out by a proxy."""
_OTHER_HOST = frozenset({
    b"forwarded", b"x-forwarded-host", b"x-forwarded-server", b"x-host", b"x-original-host",
    b"x-http-host-override", b"http2-settings",
})  # fmt: skip
_OTHER_METHOD = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})
_OTHER_PATH = frozenset({b"x-original-url", b"x-rewrite-url", b"destination"})
"""`Destination` is where WebDAV copies or moves the path to (RFC 4918, section 10.3)."""
_GUARDED = _HOP | _OTHER_HOST | _OTHER_METHOD | _OTHER_PATH
_DASHED = bytes(byte if chr(byte).isalnum() and byte < 128 else ord("-") for byte in range(256))
"""Servers that hand headers to programs as variables write one letter for all that a variable's
name cannot hold: some for `_` only, some for every other sign."""


class RequestRule:
    """What is asked of each request to `name`, canonical or an address, at `port` under `rule`."""

    def __init__(self, *, name: str, port: int, rule: EgressRule) -> None:
        self.called = rule.name
        self._name, self._port, self._rule = name, port, rule
        refused = _OTHER_HOST
        if rule.methods:
            refused |= _OTHER_METHOD
        if rule.paths:
            refused |= _OTHER_PATH
        self._refused = refused
        self._plain = name.encode("ascii")

    def admit(self, request: h11.Request, framing: int | None) -> Admitted:
        """Check a request whose body has this `framing`.

        Raises:
            RequestRefused: with the reason.
        """
        old = request.http_version == b"1.0"
        if not old and request.http_version != b"1.1":
            raise RequestRefused(f"HTTP/{request.http_version.decode()}", MALFORMED)
        if old and framing == CHUNKED:
            raise RequestRefused("Transfer-Encoding in HTTP/1.0", MALFORMED)
        _check_method(request.method, self._rule)
        _check_target(request.method, request.target, self._rule)
        named, kept = self._sorted(request)
        headers = [(b"Host", self._host(named.get(b"host", []))), *kept]
        options = _options(named) if b"connection" in named else set()
        upgrade = b"upgrade" in named
        # A far side that takes no body there would read it as a request, unless it is the last one.
        bare = bool(framing) and request.method in _WITHOUT_BODY
        close = old or bare or b"close" in options
        if upgrade:
            _check_upgrade(request, framing, named[b"upgrade"], options, kept)
            headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        elif close:
            headers.append((b"Connection", b"close"))
        if b"expect" in named:
            _check_expect(named[b"expect"])
            if not old:
                headers.append((b"Expect", b"100-continue"))
        if framing == CHUNKED:
            headers.append((b"Transfer-Encoding", b"chunked"))
        elif framing is not None:
            headers.append((b"Content-Length", b"%d" % framing))
        return Admitted(headers=headers, close=close, upgrade=upgrade)

    def _sorted(self, request: h11.Request) -> tuple[dict[bytes, list[bytes]], Headers]:
        """Part the headers that are looked at from those that go on as they are."""
        named: dict[bytes, list[bytes]] = {}
        kept: Headers = []
        for raw, value in request.headers.raw_items():
            header = raw.lower()
            if header in self._refused:
                raise RequestRefused(f"the header {header.decode()}")
            if header in _HOP:
                named.setdefault(header, []).append(value)
            elif (dashed := header.translate(_DASHED)) != header and dashed in _GUARDED:
                raise RequestRefused(
                    f"the header {shown(raw)}, which can shadow another", MALFORMED
                )
            else:
                kept.append((raw, value))
        return named, kept

    def _host(self, values: list[bytes]) -> bytes:
        """Give Host as it is written anew: with a port where the client wrote one, since signatures
        may cover it."""
        if values == [self._plain] and b":" not in self._plain:
            return self._plain
        if len(values) != 1:
            raise RequestRefused(f"{len(values)} Host headers", MALFORMED)
        bare, colon, digits = values[0].decode("latin-1"), "", ""
        if not bare.endswith("]") and ":" in bare:
            bare, colon, digits = bare.rpartition(":")
        if colon and digits != str(self._port):
            raise RequestRefused(f"Host {shown(values[0])} where port {self._port} was asked for")
        if not _is_same(bare, self._name):
            raise RequestRefused(f"Host {shown(values[0])} where {self._name} was asked for")
        written = f"[{self._name}]" if ":" in self._name else self._name
        return (written + colon + digits).encode("ascii")


def written(method: bytes, target: bytes, headers: Headers) -> bytes:
    """Write the head of a request whose parts were checked: not by `h11`, which would check them
    once more, at a tenth of the cost of a small request.

    Raises:
        ValueError: one of them would be read as more lines than one.
    """
    lines = [b"%b: %b\r\n" % header for header in headers]
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join(lines))
    if not head.count(b"\r") == head.count(b"\n") == len(lines) + 2:
        raise ValueError("a line break in a header that is written")
    return head


def _check_method(method: bytes, rule: EgressRule) -> None:
    if method != method.upper():
        # Methods have a case, which some servers do not know: this could be any other to them.
        raise RequestRefused(f"the method {shown(method)}, not in capitals", MALFORMED)
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
    values = b",".join(named[b"connection"]).lower().split(b",")
    options = {value.strip() for value in values} - {b""}
    if other := options - _OPTIONS:
        raise RequestRefused(f"Connection {shown(min(other))}", MALFORMED)
    return options


def _check_upgrade(
    request: h11.Request,
    framing: int | None,
    values: list[bytes],
    options: set[bytes],
    kept: Headers,
) -> None:
    """Let a WebSocket be asked for (RFC 6455, section 4.1), and nothing else."""
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


def _check_expect(values: list[bytes]) -> None:
    if [value.lower() for value in values] != [b"100-continue"]:
        raise RequestRefused(f"Expect {shown(b', '.join(values))}", MALFORMED)
