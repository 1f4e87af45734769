"""`stockade profile why`: which line of which file decides."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from supervisor.cli import output as out
from supervisor.cli.completion import profile_names
from supervisor.cli.folders import beside, folders_option, require_record
from supervisor.cli.session import daemon_options, session
from supervisor.errors import NotFound, NotPermitted, ProfileError, StockadeError

if TYPE_CHECKING:
    from supervisor.profile.why import Answer, Judge, Line, Said

EXIT_DENIED = StockadeError.exit_code
CALL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A profile: its canonical JSON, and where its values stand as far as that is known."""

    canonical: bytes
    digest: str
    lines: Sequence[Line] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A kind of denial of a call, and which line decides it."""

    count: int
    rule: str
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a call ran under, and the bodies of its denials."""

    profile: str
    found: Found
    denied: Sequence[Mapping[str, Any]] = field(default_factory=list)


@click.command("why", short_help="Say which line of which file allows or denies something.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Read the record of CALL from this state folder, without a daemon.",
)
@folders_option
@click.argument("words", metavar="[PROFILE] WHAT", nargs=-1, shell_complete=profile_names)
@daemon_options
@click.pass_context
def command(
    context: click.Context,
    /,
    words: tuple[str, ...],
    state: Path | None,
    folders: tuple[Path, ...],
    alone: bool,
) -> None:
    """Say whether PROFILE allows WHAT, which line of which file decides, and what is checked. Where
    none allows it, say which line comes closest and what to write.

    WHAT is HOST:PORT, ADDRESS:PORT, the name of a system call, an absolute path, or CALL, the id of
    a recorded call: then it is each of its denials. CALL alone is judged by the profile as it ran;
    with PROFILE by what that says now.

    With --json, one document: `asked`, `allowed`, `why`, `rule`, `decided` and `nearest` (`path`,
    `text`, `file`, `line`; null where there is none), `hint`. Of CALL, a list of `count`, `rule` as
    the record has it, and `answer`, which is such a document.

    \b
    Examples:
      stockade profile why github api.github.com:443
      stockade profile why --dir ./profiles mine '[2001:db8::1]:5432'
      stockade profile why python memfd_create
      stockade profile why python /etc/passwd
      stockade profile why CALL
      stockade profile why --state /mnt/backup/stockade CALL

    \b
    Exit codes:
      0  allowed; of a call, nothing was denied, or nothing would be by PROFILE
      1  denied
      2  WHAT is none of these, or the profile is wrong
      3  there is no such profile or record
      4  you may not read records; other failures as in `stockade --help`
    """
    if not 1 <= len(words) <= 2:
        raise click.UsageError("give PROFILE and WHAT, or CALL alone")
    if alone and not folders:
        raise click.UsageError("--alone is for --dir: the daemon decides what it loads")
    what = words[-1]
    profile = words[0] if len(words) == 2 else None
    if CALL.fullmatch(what):
        denied = _of_call(what, profile, state, _loader(folders, alone=alone))
        _tell_call(what, denied)
        allowed = all(one.answer.allowed for one in denied)
    elif profile is None:
        raise click.UsageError(f"{what!r} is no CALL: give PROFILE before it")
    elif state is not None:
        raise click.UsageError("--state is for CALL")
    else:
        answer = _ask(judge_of(_loader(folders, alone=alone)(profile)), what)
        _tell(answer)
        allowed = answer.allowed
    if not allowed:
        context.exit(EXIT_DENIED)


def _ask(judge: Judge, what: str) -> Answer:
    from supervisor.profile.places import parse_place

    if what.startswith("/"):
        return judge.path(what)
    if ":" in what or "." in what:
        return judge.place(*parse_place(what))
    return judge.syscall(what)


def judge_of(found: Found) -> Judge:
    """Give who answers for a profile as it is enforced."""
    from supervisor.egress.plan import Plan
    from supervisor.profile.resolve import rules_of
    from supervisor.profile.why import Judge

    canonical = json.loads(found.canonical)
    return Judge(canonical, found.lines, Plan.of(rules_of(canonical)).decide)


Loader = Callable[[str], Found]


def _loader(folders: tuple[Path, ...], *, alone: bool) -> Loader:
    def load(name: str) -> Found:
        if folders:
            from supervisor.profile.load import ProfileSet

            profile = ProfileSet.load(beside(folders, alone=alone)).effective(name)
            return Found(canonical=profile.canonical, digest=profile.digest, lines=profile.lines)
        with session().client() as client:
            said = client.get_profile(name)
        return Found(canonical=said.canonical, digest=said.summary.digest, lines=said.lines)

    return load


def _of_call(call: str, profile: str | None, state: Path | None, load: Loader) -> list[Denial]:
    from supervisor.profile.why import distinct

    recorded = _offline(call, state) if state else _asked(call)
    found = load(profile) if profile else _as_it_ran(recorded, load)
    judge = judge_of(found)
    return [
        Denial(count=count, rule=str(body["rule"]), answer=judge.denial(body))
        for body, count in distinct(recorded.denied)
    ]


def _as_it_ran(recorded: Recorded, load: Loader) -> Found:
    """Give the profile as it ran, with its lines where it is still the same one."""
    try:
        now = load(recorded.profile)
    except (NotFound, NotPermitted, ProfileError) as error:
        out.note(f"no file and line: profile {recorded.profile}: {error.message.splitlines()[0]}")
        return recorded.found
    if now.digest == recorded.found.digest:
        return now
    out.note(
        f"no file and line: profile {recorded.profile} is another now; give it before CALL to "
        "judge by that"
    )
    return recorded.found


def _asked(call: str) -> Recorded:
    with session().client() as client:
        record = client.record(call)
        canonical = client.recorded_profile(call)
    bodies = [_map(entry.body()["body"]) for entry in record.entries if entry.kind == "denied"]
    return Recorded(
        profile=record.call.profile,
        found=Found(canonical=canonical, digest=record.call.profile_digest),
        denied=bodies,
    )


def _offline(call: str, state: Path) -> Recorded:
    from supervisor.audit.offline import read_calls, read_profile

    require_record(state)
    entries = read_calls(state, [call])[call]
    profile = _map(_map(entries[0].body())["profile"])
    return Recorded(
        profile=str(profile["name"]),
        found=Found(canonical=read_profile(state, entries[0]), digest=str(profile["digest"])),
        denied=[_map(entry.body()) for entry in entries if entry.kind == "denied"],
    )


def _map(value: object) -> Mapping[str, Any]:
    """Give an object of the record, whose entries have been checked."""
    return cast("Mapping[str, Any]", value)


def _tell_call(call: str, denied: list[Denial]) -> None:
    if session().json:
        out.document(denied)
        return
    if not denied:
        out.note(f"{call}: nothing was denied")
    for one in denied:
        _tell(one.answer, times=one.count)


def _tell(answer: Answer, times: int = 1) -> None:
    if session().json:
        out.document(answer)
        return
    verdict = "allowed" if answer.allowed else "denied"
    out.heading(f"{answer.asked}: {verdict}" + (f", {times} times" if times > 1 else ""))
    out.field("why", answer.why)
    out.field("rule", answer.rule)
    _tell_line("decided by", answer.decided)
    _tell_line("nearest", answer.nearest)
    out.field("hint", answer.hint)


def _tell_line(name: str, said: Said | None) -> None:
    if said is not None:
        out.field(name, said)
        out.field("", said.text)
