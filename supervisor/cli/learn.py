"""`stockade profile learn`: a profile out of what calls did."""

from __future__ import annotations

import ipaddress
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.call.events import CELL_PATH, OTHER_ARGUMENTS, Wall
from supervisor.call.safe import safe, word
from supervisor.call.types import untext
from supervisor.cli import output as out
from supervisor.cli.completion import call_ids, system_calls
from supervisor.cli.folders import require_record
from supervisor.cli.session import daemon_options, session
from supervisor.errors import InvalidRequest, StockadeError

if TYPE_CHECKING:
    from supervisor.profile.learn import Evidence, Learned

EXIT_INCOMPLETE = StockadeError.exit_code
SUFFIX = ".yaml"
Entry = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """Calls by id, with kind and body of their entries, and how their profile can be had."""

    calls: Mapping[str, list[Entry]]

    def profile(self) -> tuple[str, str]:
        """Give name and digest of the one profile that all of them ran under.

        Raises:
            InvalidRequest: `PROFILES_DIFFER`.
        """
        seen: dict[tuple[str, str], str] = {}
        for call_id, entries in self.calls.items():
            profile = entries[0][1]["profile"]
            seen.setdefault((str(profile["name"]), str(profile["digest"])), call_id)
        if len(seen) > 1:
            each = (f"{call} under {name} sha256:{digest[:12]}" for (name, digest), call
                    in seen.items())  # fmt: skip
            raise InvalidRequest(
                "PROFILES_DIFFER",
                f"these calls did not run under one profile: {', '.join(each)}",
                hint="learn from calls of one profile, in one version of it",
            )
        return next(iter(seen))


@click.command("learn", short_help="Write a profile from what calls did.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write the whole profile to FILE, which must not be there yet and gives the profile its "
    "name: NAME.yaml; - is standard output.  [default: print the difference]",
)
@click.option(
    "--accept",
    multiple=True,
    metavar="SYSCALL",
    shell_complete=system_calls,
    help="Allow a system call that was denied; may be given again.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Read the record of this state folder, without a daemon.",
)
@click.argument("calls", metavar="CALL...", nargs=-1, required=True, shell_complete=call_ids)
@daemon_options
@click.pass_context
def command(
    context: click.Context,
    /,
    calls: tuple[str, ...],
    output: str | None,
    accept: tuple[str, ...],
    state: Path | None,
) -> None:
    """Write a profile that allows what CALLs did and as little else as possible, and print how
    it differs from the profile that they ran under. Nothing changes until somebody puts it into
    a folder of profiles: read it first.

    The calls ran under one profile, with `mode: observe` (all of it is learned) or with
    `syscalls.watch` (what was watched is learned, the rest stays as it was). The learned profile
    stands alone and enforces. System calls are the sets and single names that hold what was made
    with the fewest besides, within 40 lines. What was denied stays denied and is named in a
    comment, as are programs, and hosts that were asked for in vain: no rule of egress is ever
    learned, since it was the program that chose them.

    With --json, one document: `name`, `text`, `diff`, `cover` (`sets`, `singles`, `excess`),
    `incomplete`.

    \b
    Examples:
      stockade run -p watched -- ./report.py
      stockade profile learn CALL
      stockade profile learn -o profiles/report.yaml CALL OTHER
      stockade profile learn --accept memfd_create CALL
      stockade profile learn --state /mnt/backup/stockade CALL

    \b
    Exit codes:
      0  learned
      1  learned, but there may be more: a call was cut short, still runs or never began, or
         some of it was lost; it is said which
      2  nothing was watched, the profiles differ, or FILE cannot be a profile
      3  there is no such record
      4  you may not read records
      8  the record is damaged; other failures as in `stockade --help`
    """
    from supervisor.profile.learn import learn

    file = None if output is None or output == "-" else _file(output)
    wanted = list(dict.fromkeys(calls))
    ran, canonical = _offline(state, wanted) if state else _asked(wanted)
    _, digest = ran.profile()
    name = file.stem if file else None
    learned = learn(json.loads(canonical), digest, evidence(ran.calls), accept, name=name)
    if file:
        _write(file, learned.text)
    if session().json:
        out.document(learned)
    elif output == "-":
        click.echo(learned.text, nl=False)
    elif output is None:
        click.echo(learned.diff, nl=False)
    _say(learned)
    if learned.incomplete:
        context.exit(EXIT_INCOMPLETE)


def _asked(wanted: list[str]) -> tuple[Ran, bytes]:
    """Ask the daemon for the record, and for the profile as it was when these calls ran."""
    with session().client() as client:
        records = {call_id: client.record(call_id) for call_id in wanted}
        ran = Ran(
            calls={
                call_id: [(entry.kind, _map(entry.body().get("body"))) for entry in record.entries]
                for call_id, record in records.items()
            }
        )
        ran.profile()
        return ran, client.recorded_profile(wanted[0])


def _offline(state: Path, wanted: list[str]) -> tuple[Ran, bytes]:
    from supervisor.audit.offline import read_calls, read_profile

    require_record(state)
    found = read_calls(state, wanted)
    ran = Ran(
        calls={call: [(one.kind, one.body()) for one in entries] for call, entries in found.items()}
    )
    ran.profile()
    return ran, read_profile(state, found[wanted[0]][0])


def evidence(calls: Mapping[str, list[Entry]]) -> Evidence:
    """Gather what calls did from their entries."""
    from supervisor.profile.learn import Evidence

    gathered = Evidence(calls=list(calls))
    counts: dict[str, Counter[str]] = {
        name: Counter()
        for name in (
            "made",
            "denied",
            "denied_arguments",
            "programs",
            "hosts",
            "destinations",
            "others",
        )
    }
    for call_id, entries in calls.items():
        for kind, body in entries:
            match kind:
                case "watched":
                    _take_watched(body, counts, gathered.families)
                case "denied":
                    _take_denied(body, counts)
                case "processes":
                    counts["programs"].update(programs(body.get("events") or ()))
                case "lost":
                    count = body.get("count") or "an unknown number"
                    gathered.incomplete.append(f"{call_id} lost {count} of {body.get('what')}")
        gathered.incomplete += [f"{call_id} {why}" for why in _unfinished(entries)]
    for name, counter in counts.items():
        getattr(gathered, name).update(counter)
    return gathered


def _take_watched(
    body: Mapping[str, Any], counts: Mapping[str, Counter[str]], families: set[int]
) -> None:
    name, count = str(body["name"]), int(body["count"])
    if body.get("killed"):
        counts["denied"][name] += count
        return
    counts["made"][name] += count
    if name == "socket" and body["arguments"]:
        families.add(int(body["arguments"][0]))


def _take_denied(body: Mapping[str, Any], counts: Mapping[str, Counter[str]]) -> None:
    name, detail, count = str(body["name"]), str(body["detail"]), int(body["count"])
    if body["wall"] == Wall.NETWORK:
        host = _asked_for(name, detail)
        if host:
            counts["hosts"][host] += count
        else:
            counts["destinations"][f"{name} {detail}"] += count
    elif body["wall"] == Wall.SYSCALL and str(body["rule"]).endswith(OTHER_ARGUMENTS):
        counts["denied_arguments"][detail or name] += count
    elif body["wall"] == Wall.SYSCALL:
        counts["denied"][name] += count
    else:
        counts["others"][f"{body['wall']} {name} {detail}".strip()] += count


def _asked_for(name: str, detail: str) -> str:
    """Give the host that the network wall did not let a call have, without port and type of
    query; "" for an address that was tried as such, and where it is no matter of the host."""
    asked = detail.partition(" ")[0]
    match name:
        case "dns":
            return asked
        case "connect" | "dial":
            host = asked.rpartition(":")[0]
            return "" if _is_address(host) else host
    return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def programs(events: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Count the programs that a `processes` entry says were started, by path."""
    paths = (untext(event["path"]) for event in events if event["what"] == "started")
    return Counter(
        path.decode(errors="surrogateescape") for path in paths if path != CELL_PATH.encode()
    )


def _unfinished(entries: list[Entry]) -> list[str]:
    """Say why a call may have had more to do: it did not end by itself."""
    kinds = {kind for kind, _ in entries}
    if "outcome" not in kinds:
        return ["has not ended"]
    ended = _map(entries[-1][1].get("outcome"))
    why = str(ended.get("reason") or "no reason given")
    if ended.get("kind") == "failed" and why == "EXEC_FAILED":
        return ["ran no program (EXEC_FAILED)"]
    if "started" not in kinds:
        return ["never started"]
    match ended.get("kind"):
        case "exited" | "signaled":
            return []
        case "timed_out":
            return ["timed out"]
        case "out_of_memory":
            return ["ran out of memory"]
        case "limit_exceeded":
            return [f"reached its {ended.get('limit')} limit"]
        case "stopped" | "failed" as how:
            return [f"{'was stopped' if how == 'stopped' else how} ({why})"]
        case "interrupted":
            return ["was interrupted"]
        case other:
            return [f"ended in a way that is not known here ({other})"]


def _file(output: str) -> Path:
    """Give the file to write, where it can hold a profile and is not there yet.

    Raises:
        InvalidRequest: `OUTPUT_NAME`, `OUTPUT_FOLDER`, `FILE_EXISTS`.
    """
    from supervisor.profile.fields import NAME

    path = Path(output)
    if path.suffix != SUFFIX or not NAME.fullmatch(path.stem):
        raise InvalidRequest(
            "OUTPUT_NAME",
            f"{output!r} cannot be loaded as a profile: the file has the profile's name, which is "
            "lower-case letters, digits and hyphens, and ends in .yaml",
            hint="as in -o profiles/report.yaml, which makes the profile report",
        )
    if not path.parent.is_dir():
        raise InvalidRequest(
            "OUTPUT_FOLDER", f"there is no folder {str(path.parent)!r}",
            hint="make it first, or name a file in one that is there",
        )  # fmt: skip
    if os.path.lexists(path):
        raise _exists(path)
    return path


def _write(path: Path, text: str) -> None:
    """Write a new file.

    Raises:
        InvalidRequest: `FILE_EXISTS`.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise _exists(path) from None


def _exists(path: Path) -> InvalidRequest:
    other = path.with_name(f"{path.stem[:50]}-learned{SUFFIX}")
    return InvalidRequest(
        "FILE_EXISTS", f"{path} is there already, and is not overwritten",
        hint=f"-o {word(str(other))} writes it beside, as the profile {other.stem}",
    )  # fmt: skip


def _say(learned: Learned) -> None:
    excess = len(learned.cover.excess)
    held = ""
    if excess:
        held = f"; their sets hold {out.count(excess, 'system call')} that nobody made"
    entries = out.count(learned.cover.items, "entry", "entries")
    out.note(f"{learned.name}: {entries} of system calls{held}")
    for why in learned.incomplete:
        out.note(f"INCOMPLETE: {safe(why)}; what it needs may be missing")


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
