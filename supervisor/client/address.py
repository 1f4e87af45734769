"""Where the daemon is, and what a connection to it needs.

An address is `unix:///path`, `unix:path` or `host:port`. TCP always means mutual TLS: there is no
form of an address that gives a plain-text connection over a network.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import InvalidRequest, Unreachable

ADDRESS_VARIABLE = "STOCKADE_ADDR"
DEFAULT_ADDRESS = "unix:///run/stockade/stockade.sock"
MESSAGE_BYTES_MAX = 16 << 20
KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
RECONNECT_MIN_MS = 50
RECONNECT_MAX_MS = 1_000
CONNECT_TIMEOUT_MS = 10_000
"""Of one attempt to connect: a daemon that starts fifty sandboxes at once may take a second or some
until it says its first word."""

HANDSHAKE_FAILED = ("andshake failed", "Hostname Verification Check failed")
"""What gRPC's C core says where the daemon's certificate is not taken. Where ours is not, it sees
the connection close and says no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The PEM files of mutual TLS: who may be the daemon, and who we are."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A parsed address: `target` is gRPC's, `socket_path` is empty for TCP."""

    target: str
    socket_path: str = ""
    tls: Tls | None = None

    def __str__(self) -> str:
        return f"unix://{self.socket_path}" if self.socket_path else self.target


def resolve(
    address: str | None, tls: Tls | tuple[str | Path, str | Path, str | Path] | None = None
) -> Address:
    """Parse `address`, or what STOCKADE_ADDR says, or the default.

    Raises:
        InvalidRequest: `ADDRESS_INVALID`, `TLS_REQUIRED`.
    """
    text = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    if text.startswith("unix:"):
        return _unix(text)
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 1 << 16) or "/" in host:
        raise InvalidRequest(
            "ADDRESS_INVALID",
            f"not an address: {text!r}",
            hint="use unix:///path/to/socket or host:port",
            metadata={"address": text},
        )
    if tls is None:
        raise InvalidRequest(
            "TLS_REQUIRED",
            f"{text} is reached over TCP, which needs mutual TLS",
            hint="pass tls=(ca, certificate, key), or --tls-ca, --tls-cert and --tls-key",
            metadata={"address": text},
        )
    if not isinstance(tls, Tls):
        ca, certificate, key = (Path(path) for path in tls)
        tls = Tls(ca=ca, certificate=certificate, key=key)
    return Address(target=text, tls=tls)


def channel_options() -> list[tuple[str, int]]:
    """Give the channel's options. A peer may be dead in silence on a unix socket too: a process
    that is stopped keeps its connections, so that only a ping finds it out."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MIN_MS),
        # By its name the least time between attempts, in gRPC's core the timeout of each.
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MAX_MS),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ]


def read_tls(tls: Tls) -> tuple[bytes, bytes, bytes]:
    """Read CA, certificate and key.

    Raises:
        InvalidRequest: `TLS_FILE_UNREADABLE`.
    """
    contents = []
    for path in (tls.ca, tls.certificate, tls.key):
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise InvalidRequest(
                "TLS_FILE_UNREADABLE", f"{path}: {error.strerror}", metadata={"path": str(path)}
            ) from error
    return contents[0], contents[1], contents[2]


def check_tls(tls: Tls) -> None:
    """See that the files are what a handshake needs: gRPC would say no more than that it failed.

    Raises:
        InvalidRequest: `TLS_UNUSABLE`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(tls.ca)
    except OSError as error:
        what = f"the CA {tls.ca} holds no certificate in PEM form"
        raise _unusable(what, error, ca=tls.ca) from error
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except (OSError, ValueError) as error:
        what = f"certificate {tls.certificate} and key {tls.key} are no pair"
        raise _unusable(what, error, certificate=tls.certificate, key=tls.key) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


def _unusable(what: str, error: Exception, **files: Path) -> InvalidRequest:
    why = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
    return InvalidRequest(
        "TLS_UNUSABLE",
        f"{what}: {str(why).lower().replace('_', ' ')}",
        hint="--tls-ca, --tls-cert and --tls-key take PEM files; the key is the certificate's own",
        metadata={name: str(path) for name, path in files.items()},
    )


def unreachable(address: Address, detail: str, *, reason: str = "CONNECTION_LOST") -> Unreachable:
    """Find out why nobody answers, by one plain connect where the address is a socket's path;
    `reason` and `detail` stand where that finds nothing."""
    why, hint = detail or "the connection broke", ""
    if address.socket_path:
        reason, why, hint = _probe(address.socket_path) or (reason, why, hint)
    elif any(sign in detail for sign in HANDSHAKE_FAILED):
        reason = "TLS_HANDSHAKE"
        hint = "its certificate must be of the CA that is given, and for the name in the address"
    else:
        hint = "is `stockade serve` listening there, and do both sides trust the other's CA?"
    return Unreachable(
        reason,
        f"no answer from the daemon at {address}: {why}",
        hint=hint,
        metadata={"address": str(address)},
    )


def _probe(path: str) -> tuple[str, str, str] | None:
    """Connect once and give reason, explanation and hint; None where the connect succeeds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError as error:
            match error.errno:
                case errno.ENOENT:
                    hint = "start it with `stockade serve`, or name another --address"
                    return "SOCKET_MISSING", "there is no such socket", hint
                case errno.ECONNREFUSED:
                    hint = "the daemon is not running; start it with `stockade serve`"
                    return "SOCKET_REFUSED", "nobody listens on the socket", hint
                case errno.EACCES | errno.EPERM:
                    why = "this user may not open the socket"
                    return "SOCKET_DENIED", why, _who_may(Path(path))
                case _:
                    return "CONNECTION_LOST", str(error), ""
    return None


def _who_may(path: Path) -> str:
    """Say what to do where this user may not connect, which takes the right to write."""
    try:
        status = path.stat()
    except OSError:
        return f"a folder on the way to it, above {path.name}, is closed to this user"
    owner, group = _name_of_user(status.st_uid), _name_of_group(status.st_gid)
    access = f"{stat.S_IMODE(status.st_mode):04o} {owner}:{group}"
    if status.st_mode & stat.S_IWGRP and status.st_gid != 0:
        return f"add this user to group {group}, and log in again: the socket is {access}"
    return (
        f"only {owner} may use it: the socket is {access}; a group can be let in by the "
        "configuration, see docs/operations.md"
    )


def _name_of_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _name_of_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _unix(text: str) -> Address:
    path = text.removeprefix("unix:")
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path or path.startswith("//"):
        raise InvalidRequest(
            "ADDRESS_INVALID",
            f"not a socket's address: {text!r}",
            hint="use unix:///absolute/path or unix:relative/path",
            metadata={"address": text},
        )
    absolute = str(Path(path).absolute())
    return Address(target=f"unix:{absolute}", socket_path=absolute)
