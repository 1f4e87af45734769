"""`stockade profile`: what profiles there are, what they say, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.call.safe import safe
from supervisor.cli import output as out
from supervisor.cli.completion import profile_names
from supervisor.cli.folders import alone_option, beside, folders_option, profile_folders
from supervisor.cli.in_clear import in_clear
from supervisor.cli.learn import command as learn
from supervisor.cli.session import daemon_options, json_option, session
from supervisor.cli.why import command as why
from supervisor.errors import NotFound, ProfileError

if TYPE_CHECKING:
    from supervisor.profile.load import Problem, ProfileSet
    from supervisor.profile.model import EffectiveProfile

TABLE_WIDTH_MIN = 120
FRAGMENTS = "fragments"
EXIT_PROBLEMS = ProfileError.exit_code


@click.group("profile", short_help="Look at sandbox profiles, check and learn them.")
def command() -> None:
    """Look at the sandbox profiles: the daemon's, or those of a folder; learn new ones.

    \b
    Examples:
      stockade profile ls
      stockade profile explain python
      stockade profile why github api.github.com:443
      stockade profile lint ./profiles
      stockade profile learn CALL

    \b
    Exit codes:
      0  done
      1  learned from calls of which something is not known; `why`: denied
      2  a profile is wrong
      3  there is no such profile
      7  no daemon answers; `--dir` needs none
    """


command.add_command(learn)
command.add_command(why)


@command.command("ls", short_help="List profiles.")
@folders_option
@daemon_options
def ls(folders: tuple[Path, ...], alone: bool) -> None:
    """List the profiles that you may use, or those of folders.

    With --json, one document: a list of `name`, `why`, `digest`, `mode`; `problems` is how many
    a profile of a folder has. `lint` shows them.

    \b
    Examples:
      stockade profile ls
      stockade profile ls --dir ./profiles

    \b
    Exit codes:
      0  listed
      7  no daemon answers; other failures as in `stockade --help`
    """
    _check(folders, alone=alone)
    rows = _local_rows(folders, alone=alone) if folders else _daemon_rows()
    if session().json:
        out.document(rows)
        return
    out.table(
        ("PROFILE", "DIGEST", "MODE", "WHY"),
        [
            (
                row["name"],
                row["digest"][:12],
                row["mode"],
                row["why"]
                or (
                    f"{out.count(row['problems'], 'problem')}: see lint" if row["problems"] else ""
                ),
            )
            for row in rows
        ],
        empty="no profiles",
    )


@command.command("show", short_help="Show an effective profile, with the origin of each line.")
@click.option("--canonical", is_flag=True, help="Print the exact bytes that the digest is over.")
@click.argument("name", metavar="PROFILE", shell_complete=profile_names)
@folders_option
@daemon_options
def show(name: str, folders: tuple[Path, ...], alone: bool, canonical: bool) -> None:
    """Show what PROFILE comes to after `extends`, `use` and `drop`, with the file and line that
    each value is from.

    With --json, one document: `summary`, `lines` (`path`, `value`, `file`, `line`) and
    `canonical`, as an object.

    \b
    Examples:
      stockade profile show python
      stockade profile show --canonical python | sha256sum
      stockade profile show --dir ./profiles mine

    \b
    Exit codes:
      0  shown
      2  the profile is wrong
      3  there is no such profile; other failures as in `stockade --help`
    """
    _check(folders, alone=alone)
    if folders:
        summary, data, lines = _local_profile(name, folders, alone=alone)
    else:
        summary, data, lines = _daemon_profile(name)
    if canonical:
        click.echo(data, nl=False)
    elif session().json:
        out.document({"summary": summary, "lines": lines, "canonical": json.loads(data)})
    else:
        out.heading(f"{summary['name']}: {summary['why']}")
        out.field("digest", f"sha256:{summary['digest']}")
        out.field("mode", summary["mode"])
        out.table(
            ("SETTING", "VALUE", "FROM"),
            [
                (
                    line["path"],
                    line["value"] if isinstance(line["value"], str) else json.dumps(line["value"]),
                    f"{line['file']}:{line['line']}" if line["line"] else "built in",
                )
                for line in lines
            ],
        )


@command.command("explain", short_help="Say what a call could do at worst, wall by wall.")
@click.argument("name", metavar="PROFILE", shell_complete=profile_names)
@folders_option
@daemon_options
def explain(name: str, folders: tuple[Path, ...], alone: bool) -> None:
    """Say wall by wall what PROFILE sets, how open that is, what a call could do with it at
    worst, and what to do about it. Where hosts differ in a wall, the daemon says what its host
    has; with --dir nobody knows.

    With --json, one document: a list of `wall`, `setting`, `exposure` (closed, narrow, wide),
    `verdict`, `advice`, `host`.

    \b
    Examples:
      stockade profile explain python
      stockade profile explain --dir ./profiles mine
      stockade profile explain --json shell | jq '.[] | select(.exposure == "wide")'

    \b
    Exit codes:
      0  explained
      2  the profile is wrong
      3  there is no such profile; other failures as in `stockade --help`
    """
    _check(folders, alone=alone)
    if folders:
        from supervisor.profile.explain import explain as explain_profile

        findings: tuple[Any, ...] = explain_profile(_effective(name, folders, alone=alone))
    else:
        with session().client() as client:
            findings = client.explain(name)
    if session().json:
        out.document(findings)
        return
    width = out.columns()
    if width is not None and width < TABLE_WIDTH_MIN:
        _blocks(findings, width)
        return
    out.table(
        ("WALL", "EXPOSURE", "SETTING", "AT WORST", "ADVICE"),
        [
            (f.wall, f.exposure, f.setting, f"{f.verdict} {f.host}".strip(), f.advice)
            for f in findings
        ],
    )


def _blocks(findings: tuple[Any, ...], width: int) -> None:
    """Print findings one below the other, for a terminal that is too narrow for their table."""
    for position, found in enumerate(findings):
        if position:
            out.heading("")
        out.heading(f"{found.wall}: {found.exposure}")
        out.paragraph("setting", found.setting, width)
        out.paragraph("at worst", found.verdict, width)
        if found.host:
            out.paragraph("this host", found.host, width)
        if found.advice:
            out.paragraph("advice", found.advice, width)


@command.command("lint", short_help="Check profiles, without a daemon.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Check the folders that this configuration names.  "
    "[default: /etc/stockade/config.yaml, where it exists]",
)
@alone_option
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
@json_option
@click.pass_context
def lint(
    context: click.Context, /, paths: tuple[Path, ...], config_path: Path | None, alone: bool
) -> None:
    """Check the profiles and fragments of PATHS: folders or single files. Without PATHS, those
    that the daemon would load with this configuration, and no others. Each problem comes with
    file, line, column and a caret.

    A warning is of a value that looks like a secret, by itself or by its variable's name: profiles
    are kept on record as they are written. The line is not shown then.

    With PATHS the shipped profiles are loaded too, so that a profile may extend them. With --json,
    one document: a list of `level` (error, warning), `file`, `line`, `column`, `message`, `hint`.

    \b
    Examples:
      stockade profile lint
      stockade profile lint --config ./config.yaml
      stockade profile lint ./profiles
      stockade profile lint ./profiles/mine.yaml

    \b
    Exit codes:
      0  nothing is wrong, but for warnings
      2  there are problems, or the configuration is wrong
    """
    if paths and config_path is not None:
        raise click.UsageError("give either PATHS or --config")
    asked = _asked_for(paths) if paths else _configured(config_path)
    loaded = beside(asked.load, alone=alone) if paths else asked.load
    profiles = _load(loaded)
    problems = _problems(profiles, asked)
    warnings = [found for found in _distinct(in_clear(profiles)) if asked.holds(Path(found.file))]
    if session().json:
        told = {"error": problems, "warning": warnings}
        out.document([{"level": level, **out.to_json(p)} for level in told for p in told[level]])
    else:
        marked = [replace(found, message=f"warning: {found.message}") for found in warnings]
        for problem in (*problems, *marked):
            click.echo(safe(problem.render(), lines=True))
        counts = [out.count(len(problems), "problem")]
        counts += [out.count(len(warnings), "warning")] if warnings else []
        out.note(f"{out.count(len(asked.files()), 'file')} checked, {', '.join(counts)}")
        if problems:
            out.note(_looked_up(loaded))
    if problems:
        context.exit(EXIT_PROBLEMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is to be checked: the folders to load, those that are meant as a whole, and files."""

    load: tuple[Path, ...]
    whole: frozenset[Path]
    single: frozenset[Path]

    def holds(self, file: Path) -> bool:
        """Say whether a file is meant."""
        folders = {_place(file).parent, _place(file).parent.parent}
        return bool(folders & self.whole) or _place(file) in self.single

    def files(self) -> set[Path]:
        """Give the profiles and fragments that are meant, as far as they are there."""
        inside = (folder / part for folder in self.whole for part in ("", FRAGMENTS))
        return {*self.single, *(file for folder in inside for file in folder.glob("*.yaml"))}


def _place(file: Path) -> Path:
    """Give a file's path below its real folder: a file that is a link is named by its own place,
    and the fragments of a folder are below it also where they are a link."""
    if file.parent.name == FRAGMENTS:
        return file.parent.parent.resolve() / FRAGMENTS / file.name
    return file.parent.resolve() / file.name


def _asked_for(paths: tuple[Path, ...]) -> _Asked:
    load: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir() and path.suffix not in (".yaml", ".yml"):
            raise click.BadParameter(f"{path}: a profile's file is named NAME.yaml")
        inner = path.parent.name == FRAGMENTS
        load[path if path.is_dir() else path.parent.parent if inner else path.parent] = None
    return _Asked(
        load=tuple(load),
        whole=frozenset(path.resolve() for path in paths if path.is_dir()),
        single=frozenset(_place(path) for path in paths if not path.is_dir()),
    )


def _configured(config_path: Path | None) -> _Asked:
    """Give what the daemon would load.

    Raises:
        ProfileError: the configuration is missing or wrong.
    """
    from supervisor.cli.serve import configuration, configuration_file

    folders = profile_folders(configuration(configuration_file(config_path)).profiles)
    whole = frozenset(folder.resolve() for folder in folders)
    return _Asked(load=tuple(folders), whole=whole, single=frozenset())


def _problems(profiles: ProfileSet, asked: _Asked) -> list[Problem]:
    everything = [p for name in profiles.names for p in profiles.problems(name)]
    found = _distinct([*everything, *profiles.stray])
    return [problem for problem in found if asked.holds(Path(problem.file))]


def _distinct(problems: Iterable[Problem]) -> list[Problem]:
    """Give each problem once, by place: a parent's is also its children's."""
    found = {(p.file, p.line, p.column, p.message): p for p in problems}
    return [found[key] for key in sorted(found)]


def _check(folders: tuple[Path, ...], *, alone: bool) -> None:
    if alone and not folders:
        raise click.UsageError("--alone is for --dir: the daemon decides what it loads")


def _looked_up(folders: Sequence[Path]) -> str:
    return "profiles and fragments were looked up in " + ", ".join(map(str, folders))


def _load(folders: Sequence[Path]) -> ProfileSet:
    from supervisor.profile.load import ProfileSet

    return ProfileSet.load(folders)


def _daemon_rows() -> list[dict[str, Any]]:
    with session().client() as client:
        return [{**out.to_json(summary), "problems": 0} for summary in client.profiles()]


def _local_rows(folders: tuple[Path, ...], *, alone: bool) -> list[dict[str, Any]]:
    profiles = _load(beside(folders, alone=alone))
    if profiles.stray:
        count = out.count(len(_distinct(profiles.stray)), "problem")
        out.note(f"{count} in files that are no profile's: see lint")
    rows = []
    for name in profiles.names:
        problems = _distinct(profiles.problems(name))
        row = {"name": name, "why": "", "digest": "", "mode": "", "problems": len(problems)}
        if not problems:
            profile = profiles.effective(name)
            row.update(why=profile.why, digest=profile.digest, mode=profile.mode)
        rows.append(row)
    return rows


def _daemon_profile(name: str) -> tuple[dict[str, Any], bytes, list[dict[str, Any]]]:
    with session().client() as client:
        profile = client.get_profile(name)
    return out.to_json(profile.summary), profile.canonical, out.to_json(profile.lines)


def _effective(name: str, folders: tuple[Path, ...], *, alone: bool) -> EffectiveProfile:
    """Give a profile out of folders.

    Raises:
        NotFound, ProfileError: as `ProfileSet.effective`; the hint says where was looked.
    """
    looked_up = beside(folders, alone=alone)
    profiles = _load(looked_up)
    try:
        return profiles.effective(name)
    except (NotFound, ProfileError) as error:
        error.hint = "; ".join(part for part in (error.hint, _looked_up(looked_up)) if part)
        raise


def _local_profile(
    name: str, folders: tuple[Path, ...], *, alone: bool
) -> tuple[dict[str, Any], bytes, list[dict[str, Any]]]:
    profile = _effective(name, folders, alone=alone)
    summary = {
        "name": profile.name,
        "why": profile.why,
        "digest": profile.digest,
        "mode": profile.mode,
    }
    return summary, profile.canonical, out.to_json(profile.lines)
