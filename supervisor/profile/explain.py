"""The worst that a call under a profile could do, wall by wall, after `systemd-analyze security`.

Each wall of the design gets one row: what is set, how open that is, what a call could do with it
at worst, and what to do about it. The rows say what is enforced, not what is intended. Where hosts
differ in a wall, a row also says what this host has, or that nobody has asked a host.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network

from supervisor.profile import syscalls
from supervisor.profile.model import (
    HTTP_PORT,
    HTTPS_PORT,
    Capture,
    EffectiveProfile,
    EgressRule,
    ImageKind,
    Inspect,
    ReadPath,
    SecretUse,
)
from supervisor.profile.reach import by_closeness
from supervisor.profile.schema import OBSERVE, RUNTIME, under
from supervisor.profile.units import render_duration, render_size
from supervisor.profile.walls import HOST_WALLS, WallState

CONTAINER = "new container per call"
NETWORK = "no way out"
WALL_S_WIDE = 3600.0
MEMORY_BYTES_WIDE = 8 << 30
PIDS_WIDE = 1024
ADDRESSES_WIDE = 256
RESOLVER_PORTS = (53, 853)
_FULL_OF_SECRETS = ("/etc", "/home", "/root", "/var")


class Exposure(enum.StrEnum):
    """How much attention a row needs."""

    CLOSED = "closed"
    NARROW = "narrow"
    WIDE = "wide"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row: `advice` is empty where there is nothing to do, `host` where hosts do not differ."""

    wall: str
    setting: str
    exposure: Exposure
    verdict: str
    advice: str = ""
    host: str = ""


def explain(
    profile: EffectiveProfile, host: Mapping[str, WallState] | None = None
) -> tuple[Finding, ...]:
    """Give one finding for each wall, in the order of the design, and behind the network's one for
    each rule of `egress:` and each secret.

    `host` says which of `HOST_WALLS` stand where the calls run; None where that is not known.
    """
    found: list[Finding] = []
    for row in _ROWS:
        found.append(_on_host(row(profile), profile, host))
        if row is _network:
            found += map(_rule, profile.egress)
            found += (_secret(use, profile) for use in profile.secrets)
    return tuple(found)


def _on_host(
    found: Finding, profile: EffectiveProfile, host: Mapping[str, WallState] | None
) -> Finding:
    return replace(found, host=" ".join(_said_of_host(found.wall, profile, host)))


def _said_of_host(
    row: str, profile: EffectiveProfile, host: Mapping[str, WallState] | None
) -> Iterator[str]:
    if row == CONTAINER and profile.runtime != RUNTIME:
        yield _said_of_runtime(profile.runtime, host)
    for name, wall in HOST_WALLS.items():
        if wall.row != row:
            continue
        required = name in profile.require
        if host is None:
            yield f"{name}: not known without a daemon whether the host has it."
            if required:
                yield "Where it does not, calls are refused: the profile requires it."
            continue
        state = host.get(name)
        if state is not None and state.standing:
            yield f"{name} stands on this host: {wall.adds}."
            if required:
                yield "The profile requires it."
        else:
            why = state.why if state is not None else "nobody has looked for it"
            yield f"{name} is not on this host: {why}."
            if required:
                yield "The profile requires it, so its calls are refused here."


def _said_of_runtime(name: str, host: Mapping[str, WallState] | None) -> str:
    if host is None:
        return f"{name}: not known without a daemon whether the host has it."
    state = host.get(name, WallState(standing=False, why="nobody has looked for it"))
    if state.standing:
        return f"{state.why} is on this host."
    return f"{name} cannot be had on this host, so calls are refused here: {state.why}."


def _container(profile: EffectiveProfile) -> Finding:
    changing = profile.image.kind is ImageKind.DIR
    return Finding(
        wall=CONTAINER,
        setting=f"runtime {profile.runtime}, image {profile.image}",
        exposure=Exposure.NARROW if changing else Exposure.CLOSED,
        verdict="Each call gets a container of its own that is destroyed after it; nothing that "
        "one call leaves behind reaches the next.",
        advice="The folder is not pinned: who can change it changes what calls run. "
        "oci:NAME@sha256:… is."
        if changing
        else "",
    )


def _network(profile: EffectiveProfile) -> Finding:
    if profile.egress:
        size = render_size(profile.limits.egress_bytes)
        rules = "1 rule" if len(profile.egress) == 1 else f"{len(profile.egress)} rules"
        return Finding(
            wall=NETWORK,
            setting=f"egress {rules}, {size}",
            exposure=Exposure.NARROW,
            verdict="Connects over TCP, through the broker, to what the rows below name; at most "
            f"{size} go out and come in together, then every connection ends. Whatever the call "
            "can read may go to whoever answers there. All else is denied and told: other places "
            "and ports, UDP, and every other name, of which no resolver is asked.",
            advice="Name as few hosts and ports as the work needs, and the least limits.egress.",
        )
    if "@network-io" in profile.syscalls.sets:
        return Finding(
            wall=NETWORK,
            setting="egress none, @network-io",
            exposure=Exposure.NARROW,
            verdict="TCP, UDP and routing sockets, on the sandbox's own loopback only: there is "
            "no other interface, so no host can be reached and none can connect. The fence denies "
            "every other address at once, and tells.",
            advice="Drop @network-io unless servers on 127.0.0.1 are part of the work.",
        )
    return Finding(
        wall=NETWORK,
        setting="egress none",
        exposure=Exposure.CLOSED,
        verdict="No interface but loopback, and no internet sockets to use even that.",
    )


def checked_at(rule: EgressRule, port: int) -> str:
    """Say what is checked of a connection to `port` under `rule`, and what nobody sees."""
    if rule.cidr:
        return _SAID_OF_CIDR
    private = "" if rule.private else ". The name must not lead to a private address"
    return _SAID_OF_INSPECTION[rule.inspect_at(port)] + _said_besides(rule) + private


def _said_besides(rule: EgressRule) -> str:
    said = ""
    if rule.host.startswith("*") and rule.inspect is Inspect.TERMINATE:
        said += ". The * stands for one label: further below, programs do not trust the certificate"
    if rule.methods or rule.paths:
        only = [", ".join(part) for part in (rule.methods, rule.paths) if part]
        said += f". Only {' on '.join(only)}; what follows a ? may hold anything"
    return said + (". The name may lead to a private address" if rule.private else "")


def _rule(rule: EgressRule) -> Finding:
    """Say who can be reached by a rule, what is checked, and what nobody sees."""
    said = _SAID_OF_CIDR if rule.cidr else "; ".join(_said_of_ports(rule))
    said = said[0].upper() + said[1:] + _said_besides(rule)
    risks = list(_risks(rule))
    return Finding(
        wall=f"egress {rule.name}",
        setting=rule.why,
        exposure=Exposure.WIDE if any(wide for wide, _ in risks) else Exposure.NARROW,
        verdict=said + ".",
        advice=" ".join(advice for _, advice in risks),
    )


_SAID_OF_CIDR = (
    "Any of these addresses at these ports; nothing of what is sent is looked at, and no name is "
    "checked"
)


def _said_of_ports(rule: EgressRule) -> Iterator[str]:
    by_inspection: dict[Inspect, list[str]] = {}
    for ports in rule.ports:
        marked = [port for port in (HTTP_PORT, HTTPS_PORT) if port in ports]
        if rule.inspect is not None or not marked:
            by_inspection.setdefault(rule.inspect_at(ports.low), []).append(str(ports))
            continue
        for port in marked:
            by_inspection.setdefault(rule.inspect_at(port), []).append(str(port))
        if ports.high - ports.low + 1 > len(marked):
            by_inspection.setdefault(Inspect.NONE, []).append(f"the rest of {ports}")
    for inspect, places in by_inspection.items():
        yield f"at {', '.join(places)}: {_SAID_OF_INSPECTION[inspect]}"


_SAID_OF_INSPECTION = {
    Inspect.TLS: "the TLS server name must be this host's; inside TLS nothing is seen, so the Host "
    "of a request is not: where hosts share a server, it may be another's",
    Inspect.HTTP: "every request is read, and its Host must be this host's; it goes in the clear",
    Inspect.TERMINATE: "TLS ends at the broker, by a certificate authority that only this sandbox "
    "trusts; every request is read, and its Host must be this host's",
    Inspect.NONE: "the name that was asked for decides where the connection goes; nothing of what "
    "is sent is looked at",
}


def _risks(rule: EgressRule) -> Iterator[tuple[bool, str]]:
    """Give advice on what is open in a rule, and whether that is wide."""
    if rule.host.startswith("*"):
        yield True, "Whoever can have a name below the * can be reached: name the hosts."
    if rule.cidr and ip_network(rule.cidr).num_addresses > ADDRESSES_WIDE:
        yield True, "Name a smaller network."
    if any(port in each for each in rule.ports for port in RESOLVER_PORTS):
        yield True, "A resolver answers for every name: whoever has one can be sent anything."
    unread = [p for p in (HTTP_PORT, HTTPS_PORT) if rule.covers(p) and not rule.cidr]
    if any(rule.inspect_at(port) is Inspect.NONE for port in unread):
        yield True, "Leave inspect: none out: another host of the same server can be asked."
    if rule.private:
        yield (
            False,
            "Who answers for the name in DNS chooses among your own addresses; cidr: asks nobody.",
        )


def _secret(use: SecretUse, profile: EffectiveProfile) -> Finding:
    rules = by_closeness(profile.egress, use.host)
    clear = not any(rule.has_tls for rule in rules) and any(
        rule.inspect_at(each.low) is Inspect.HTTP for rule in rules for each in rule.ports
    )
    return Finding(
        wall=f"secret {use.name}",
        setting=f"{use.header} to {use.host}, as {use.env}",
        exposure=Exposure.WIDE if clear else Exposure.NARROW,
        verdict=f"The call sees a placeholder; the broker puts the secret into {use.header} of "
        f"requests to {use.host}, where the call can do whatever the secret may, and see what "
        "comes back. The placeholder sent anywhere else in the clear is denied and told; inside "
        "TLS that does not end at the broker nobody sees it, and nobody can use it."
        + (" Where the rule is for plain HTTP, the secret goes in the clear." if clear else ""),
        advice="Give it a secret that may no more than the work needs"
        + (", and inspect: tls-terminate where the host has TLS." if clear else "."),
    )


def _observing(profile: EffectiveProfile) -> Finding:
    policy = profile.syscalls
    verdict = (
        "Observing: whatever any set holds is let through and told, whatever the profile allows; "
        "only what no set holds is denied. All other walls stand as written."
    )
    if policy.kill:
        verdict += f" Any of {', '.join(sorted(policy.kill))} ends the call."
    return Finding(
        wall="syscalls",
        setting=f"mode observe: {len(policy.allow)} of {len(syscalls.known_names())} allowed and "
        "watched",
        exposure=Exposure.WIDE,
        verdict=verdict,
        advice="Observe only with programs that you know, learn from the calls with stockade "
        "profile learn, and enforce what was learned.",
    )


def _syscalls(profile: EffectiveProfile) -> Finding:
    if profile.mode == OBSERVE:
        return _observing(profile)
    policy = profile.syscalls
    singles = sorted(policy.allow & set(syscalls.BY_NAME_ONLY))
    setting = f"{len(policy.allow)} of {len(syscalls.known_names())} allowed"
    if policy.kill:
        setting += f", {len(policy.kill)} kill"
    if policy.watch:
        setting += f", {len(policy.watch)} watched"
    wide = [f"{name} ({syscalls.BY_NAME_ONLY[name]})" for name in singles]
    # No program starts without @start, so nobody can drop it.
    more = sorted(policy.sets - syscalls.expand_sets(["@default"]) - {syscalls.START})
    exposure = Exposure.WIDE if wide else Exposure.NARROW if more else Exposure.CLOSED
    verdict = "All other calls fail with EPERM and are recorded."
    if policy.kill:
        verdict += f" Any of {', '.join(sorted(policy.kill))} ends the call."
    if wide:
        verdict = f"Also allowed by name: {'; '.join(wide)}. {verdict}"
    elif more:
        verdict = f"Also allowed: {', '.join(more)}. {verdict}"
    return Finding(
        wall="syscalls",
        setting=setting,
        exposure=exposure,
        verdict=verdict,
        advice=f"Keep only if programs fail without: {', '.join(singles or more)}."
        if wide or more
        else "",
    )


def _identity(_: EffectiveProfile) -> Finding:
    return Finding(
        wall="identity",
        setting="the same for every profile",
        exposure=Exposure.CLOSED,
        verdict="An unprivileged uid of the call's own, no capabilities, no_new_privs: a setuid "
        "program gains nothing.",
    )


def _files(profile: EffectiveProfile) -> Finding:
    wide = [entry.path for entry in profile.read if _is_wide(entry)]
    total = sum(mount.size_bytes for mount in profile.write)
    reads = ", ".join(entry.path for entry in profile.read) or "none"
    writes = ", ".join(f"{m.path} {render_size(m.size_bytes)}" for m in profile.write)
    image = {
        ImageKind.HOST: "the host's /usr and a made-up /etc",
        ImageKind.DIR: f"the folder {profile.image.path}",
        ImageKind.OCI: f"the image {profile.image.name}",
    }[profile.image.kind]
    verdict = f"Reads {image}"
    if profile.read:
        verdict += f", and {reads} of the host with every file in it that its uid may read"
    verdict += f". Writes at most {render_size(total)}, in memory, gone after the call."
    advice = ""
    if wide:
        advice = f"Name only what is needed instead of {', '.join(wide)}."
    elif profile.read:
        advice = "Whatever lies in these paths later is shown as well."
    return Finding(
        wall="files",
        setting=f"host paths {reads}; writable {writes}",
        exposure=Exposure.WIDE if wide else Exposure.NARROW if profile.read else Exposure.CLOSED,
        verdict=verdict,
        advice=advice,
    )


def _is_wide(entry: ReadPath) -> bool:
    return entry.path.count("/") == 1 or any(under(entry.path, it) for it in _FULL_OF_SECRETS)


def _programs(profile: EffectiveProfile) -> Finding:
    places = [mount.path for mount in profile.write if mount.exec]
    unmounted = sorted(profile.syscalls.allow & {"memfd_create", "memfd_secret"})
    if not places and not unmounted:
        return Finding(
            wall="programs",
            setting="writable mounts noexec",
            exposure=Exposure.CLOSED,
            verdict="Runs programs of the read-only image only. Its interpreters run scripts from "
            "anywhere: a script is data to the kernel.",
        )
    where = ", ".join([*places, *unmounted])
    return Finding(
        wall="programs",
        setting=f"executable: {where}",
        exposure=Exposure.WIDE if unmounted else Exposure.NARROW,
        verdict=f"Runs any machine code that it is given or makes ({where}), under the same walls."
        + (" Where the host has the guard, a file in memory does not run." if unmounted else ""),
        advice="Only for profiles that compile; others do without exec: true.",
    )


def _terminal(profile: EffectiveProfile) -> Finding:
    if not profile.terminal:
        return Finding(
            wall="terminal",
            setting="deny",
            exposure=Exposure.CLOSED,
            verdict="No call has one: standard input, output and error are pipes.",
        )
    return Finding(
        wall="terminal",
        setting="allow",
        exposure=Exposure.NARROW,
        verdict="A call that asks for it gets a terminal of its own, which no other process of the "
        "host has: it can push no input into it, and what it writes may hold whatever a terminal "
        "obeys. All that is typed is on record, passwords too.",
        advice="Allow it where people type; stockade run -t passes on what the program writes as "
        "it is. record: {stdin: digest} keeps what is typed off the disk.",
    )


def _resources(profile: EffectiveProfile) -> Finding:
    limits = profile.limits
    wide = [
        name
        for name, is_wide in (
            ("wall", limits.wall_s > WALL_S_WIDE),
            ("memory", limits.memory_bytes > MEMORY_BYTES_WIDE),
            ("pids", limits.pids > PIDS_WIDE),
        )
        if is_wide
    ]
    advice = ""
    if wide:
        advice = f"Lower limits.{', limits.'.join(wide)}, or admit few calls at once."
    elif any(mount.size_bytes > limits.memory_bytes for mount in profile.write):
        advice = "A writable mount is larger than limits.memory, which bounds it: writing it full "
        advice += "ends the call."
    return Finding(
        wall="resources",
        setting=f"wall {render_duration(limits.wall_s)}, cpu {render_duration(limits.cpu_s)}, "
        f"memory {render_size(limits.memory_bytes)}, pids {limits.pids}, files {limits.files}, "
        f"output {render_size(limits.output_bytes)}",
        exposure=Exposure.WIDE if wide else Exposure.CLOSED,
        verdict=f"At worst keeps {render_size(limits.memory_bytes)} of memory (no swap) and "
        f"{limits.pids} processes busy for {render_duration(limits.wall_s)}; then all of it is "
        "killed.",
        advice=advice,
    )


def _record(profile: EffectiveProfile) -> Finding:
    streams = {
        "stdin": profile.record.stdin,
        "stdout": profile.record.stdout,
        "stderr": profile.record.stderr,
    }
    partial = [name for name, capture in streams.items() if capture.mode != "full"]
    setting = ", ".join(f"{name} {_written(capture)}" for name, capture in streams.items())
    verdict = "Every byte in and out is kept, and a digest of each stream."
    if partial:
        verdict = f"Of {', '.join(partial)} not every byte is kept; the digest still covers all."
    advice = "full shows what went through, not only that it was the same." if partial else ""
    redact = profile.record.redact
    setting += f", redact {'off' if redact.off else redact.written()}"
    if redact.off:
        verdict += " Whatever looks like a credential is on record as it was."
        advice = advice or "redact: secrets keeps what is found of credentials off the disk."
    else:
        verdict += " What looks like a credential is replaced in it."
    return Finding(
        wall="record",
        setting=setting,
        exposure=Exposure.NARROW if partial or redact.off else Exposure.CLOSED,
        verdict=verdict,
        advice=advice,
    )


def _written(capture: Capture) -> str:
    if capture.bytes_max is None:
        return capture.mode
    last = f" and last {render_size(capture.tail_bytes)}" if capture.tail_bytes else ""
    return f"first {render_size(capture.bytes_max)}{last}"


_ROWS: tuple[Callable[[EffectiveProfile], Finding], ...] = (
    _container,
    _network,
    _syscalls,
    _identity,
    _files,
    _programs,
    _terminal,
    _resources,
    _record,
)
