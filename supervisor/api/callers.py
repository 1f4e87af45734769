"""Who calls and what that lets them do: the transport's identity → a configured caller.

A unix peer is its user id, or else its primary group as the kernel reports it (SO_PEERCRED gives
no supplementary groups, so those never match). A TLS peer is a subject alternative name of its
certificate, or else the certificate's common name. The more specific entry wins; a certificate
that fits several entries equally well is nobody. Nothing in a request takes part in this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from supervisor.api.config import CallerEntry
from supervisor.api.peers import Peer
from supervisor.call.types import Caller
from supervisor.errors import NotPermitted, ProfileError, Unauthenticated
from supervisor.profile.load import ProfileSet

ANY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What a caller may do. `calls` is "own" or "all"; `audit` and `erase` are "none", "own" or
    "all"; `holds` says whether what calls left may be held back from retention, and released;
    `witness` whether heads of another log are kept here for it. `exports` is "none", "see" or
    "manage", of sinks."""

    caller: str
    profiles: frozenset[str]
    calls: str
    audit: str
    holds: bool = False
    erase: str = "none"
    witness: bool = False
    exports: str = "none"

    @property
    def all_profiles(self) -> bool:
        """Say whether any profile may be used, also one that is not there yet."""
        return ANY in self.profiles

    def may_use(self, profile: str) -> bool:
        """Say whether a call may run under `profile`."""
        return self.all_profiles or profile in self.profiles

    def sees(self, owner: str) -> bool:
        """Say whether calls of `owner` may be followed, listed and signalled."""
        return self.calls == "all" or owner == self.caller

    def require_input(self, owner: str) -> None:
        """Refuse to type into a call of somebody else: the record says whose a call is, and so who
        typed what its program read. `calls: all` is for looking on, and for stopping.

        Raises:
            NotPermitted: `INPUT_NOT_GRANTED`.
        """
        if owner != self.caller:
            raise NotPermitted(
                "INPUT_NOT_GRANTED",
                f"caller {self.caller!r} may neither type into a call of {owner!r} nor resize it",
                hint="`calls: all` is for following, listing and signalling",
            )

    def reads_audit(self, owner: str) -> bool:
        """Say whether records of `owner` may be read."""
        return self.audit == "all" or (self.audit == "own" and owner == self.caller)

    def erases(self, owner: str) -> bool:
        """Say whether the content of calls of `owner` may be erased."""
        return self.erase == "all" or (self.erase == "own" and owner == self.caller)

    def require_erase(self) -> None:
        """Refuse a caller that may erase nothing at all.

        Raises:
            NotPermitted: `ERASE_NOT_GRANTED`.
        """
        if self.erase == "none":
            raise NotPermitted(
                "ERASE_NOT_GRANTED",
                f"caller {self.caller!r} may not erase the content of calls",
                hint="the daemon's configuration grants it with `erase: own` or `erase: all`",
            )

    def require_audit(self) -> None:
        """Refuse a caller that may read no records at all.

        Raises:
            NotPermitted: `AUDIT_NOT_GRANTED`.
        """
        if self.audit == "none":
            raise NotPermitted(
                "AUDIT_NOT_GRANTED",
                f"caller {self.caller!r} may not read records",
                hint="the daemon's configuration grants it with `audit: own` or `audit: all`",
            )

    def require_witness(self) -> None:
        """Refuse a caller that may give no heads of its log to this daemon.

        Raises:
            NotPermitted: `WITNESS_NOT_GRANTED`.
        """
        if not self.witness:
            raise NotPermitted(
                "WITNESS_NOT_GRANTED",
                f"caller {self.caller!r} may not have heads of a log kept here",
                hint="the daemon's configuration grants it with `witness: true`",
            )

    def require_exports_seen(self) -> None:
        """Refuse a caller that may not know how sinks do. Who reads all records may: they are what
        sinks get.

        Raises:
            NotPermitted: `EXPORTS_NOT_GRANTED`.
        """
        if self.exports == "none" and self.audit != "all":
            raise NotPermitted(
                "EXPORTS_NOT_GRANTED",
                f"caller {self.caller!r} may not know how sinks do",
                hint="the daemon's configuration grants it with `exports: see` or `audit: all`",
            )

    def require_exports_managed(self) -> None:
        """Refuse a caller that may not test, replay or reload sinks, nor see to dead letters.

        Raises:
            NotPermitted: `EXPORTS_NOT_GRANTED`.
        """
        if self.exports != "manage":
            raise NotPermitted(
                "EXPORTS_NOT_GRANTED",
                f"caller {self.caller!r} may not manage sinks",
                hint="the daemon's configuration grants it with `exports: manage`",
            )

    def require_holds(self) -> None:
        """Refuse a caller that may hold nothing back from retention.

        Raises:
            NotPermitted: `HOLDS_NOT_GRANTED`.
        """
        if not self.holds:
            raise NotPermitted(
                "HOLDS_NOT_GRANTED",
                f"caller {self.caller!r} may neither hold nor release what calls left",
                hint="the daemon's configuration grants it with `holds: true`",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A known caller and what it may do."""

    caller: Caller
    grants: Grants


_current: ContextVar[Identity] = ContextVar("stockade_identity")


def enter(identity: Identity) -> None:
    """Make `identity` the caller of the request that this task answers."""
    _current.set(identity)


def current() -> Identity:
    """Give the caller of the request that this task answers."""
    return _current.get()


def known() -> Identity | None:
    """Give the same, or None where the caller is not known (yet)."""
    return _current.get(None)


def check_grants(entries: Iterable[CallerEntry], profiles: ProfileSet) -> None:
    """Refuse grants, by name, of profiles that are not there or cannot be used.

    One that is only granted through "*" stops its own calls and nothing else.

    Raises:
        ProfileError: `CONFIG_PROFILE_UNKNOWN`; `CONFIG_PROFILE_INVALID`, with every problem.
    """
    for entry in entries:
        for name in entry.profiles:
            if name == ANY:
                continue
            if name not in profiles.names:
                known = f"there are: {', '.join(sorted(profiles.names)) or 'none'}"
                raise ProfileError(
                    "CONFIG_PROFILE_UNKNOWN",
                    f"caller {entry.name!r} is granted profile {name!r}, which is not there",
                    hint="; ".join(filter(None, (known, profiles.shipped_missing))),
                )
            problems = profiles.problems(name)
            if problems:
                rendered = "\n".join(problem.render() for problem in problems)
                raise ProfileError(
                    "CONFIG_PROFILE_INVALID",
                    f"caller {entry.name!r} is granted profile {name!r}, which is wrong:\n"
                    f"{rendered}",
                    hint="stockade profile lint shows the problems of all profiles",
                )


class Directory:
    """The configured callers, by what the transport can show of them."""

    def __init__(self, entries: Iterable[CallerEntry]) -> None:
        self._by_uid: dict[int, CallerEntry] = {}
        self._by_gid: dict[int, CallerEntry] = {}
        self._by_san: dict[str, CallerEntry] = {}
        self._by_cn: dict[str, CallerEntry] = {}
        for entry in entries:
            if entry.uid is not None:
                self._by_uid[entry.uid] = entry
            elif entry.gid is not None:
                self._by_gid[entry.gid] = entry
            elif entry.san is not None:
                self._by_san[entry.san] = entry
            elif entry.cn is not None:
                self._by_cn[entry.cn] = entry

    def identify(
        self, peer: Peer | None, certificate: Mapping[str, Iterable[bytes]] | None
    ) -> Identity:
        """Give the configured caller at the other end of a connection.

        `certificate` is gRPC's authentication context: the properties of a client certificate
        that TLS has verified.

        Raises:
            Unauthenticated: `PEER_UNKNOWN`, with what is known of the peer as metadata.
        """
        if peer is None:
            # Not through the front: nothing is known of it, and nothing is assumed.
            raise Unauthenticated("PEER_UNKNOWN", "the connection did not come through the door")
        if peer.transport == "unix":
            return self._unix(peer)
        return self._tls(peer, certificate or {})

    def knows(self, peer: Peer) -> bool:
        """Say whether `peer` can be a caller: over TLS only its certificate will tell."""
        return peer.transport != "unix" or self._unix_entry(peer) is not None

    def _unix_entry(self, peer: Peer) -> CallerEntry | None:
        entry = None
        if peer.uid is not None:
            entry = self._by_uid.get(peer.uid)
        if entry is None and peer.gid is not None:
            entry = self._by_gid.get(peer.gid)
        return entry

    def _unix(self, peer: Peer) -> Identity:
        entry = self._unix_entry(peer)
        if entry is None:
            raise Unauthenticated(
                "PEER_UNKNOWN",
                f"uid {peer.uid} is no caller of this daemon",
                hint="add it under `callers:` in the daemon's configuration",
                metadata={"uid": str(peer.uid), "gid": str(peer.gid)},
            )
        return _identity(
            entry,
            Caller(name=entry.name, transport="unix", uid=peer.uid, gid=peer.gid, pid=peer.pid),
        )

    def _tls(self, peer: Peer, certificate: Mapping[str, Iterable[bytes]]) -> Identity:
        sans = _names(certificate, "x509_subject_alternative_name")
        common = _names(certificate, "x509_common_name")
        for names, entries in ((sans, self._by_san), (common, self._by_cn)):
            fits = [name for name in names if name in entries]
            if len(fits) == 1:
                entry = entries[fits[0]]
                return _identity(
                    entry, Caller(name=entry.name, transport="tls", certificate_name=fits[0])
                )
            if fits:
                break
        shown = ", ".join(sans or common)
        raise Unauthenticated(
            "PEER_UNKNOWN",
            f"no caller of this daemon, or more than one, has a certificate for {shown!r}",
            hint="add one of its names under `callers:` in the daemon's configuration",
            metadata={"certificate": shown, "address": peer.address},
        )


def _names(certificate: Mapping[str, Iterable[bytes]], key: str) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(value.decode(errors="replace") for value in certificate.get(key, ()))
    )


def _identity(entry: CallerEntry, caller: Caller) -> Identity:
    grants = Grants(
        caller=entry.name,
        profiles=frozenset(entry.profiles),
        calls=entry.calls,
        audit=entry.audit,
        holds=entry.holds,
        erase=entry.erase,
        witness=entry.witness,
        exports=entry.exports,
    )
    return Identity(caller=caller, grants=grants)
