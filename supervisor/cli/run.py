"""`stockade run`: one program, one sandbox, its output here and its exit code as ours."""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from click.core import ParameterSource

from supervisor.call import outcome
from supervisor.call.texts import is_traceparent
from supervisor.cli import output as out
from supervisor.cli.completion import profile_names
from supervisor.cli.session import daemon_options, session
from supervisor.errors import InvalidRequest, StockadeError

if TYPE_CHECKING:
    from supervisor.call.events import Finished
    from supervisor.cli.terminal import LocalTerminal
    from supervisor.client import Execution, Supervisor

STDIN_OURS = "-"
STDIN_NONE = "none"
WORK = "/work/"
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ms|s|m|h)?", re.ASCII)
_FORMER_TIMEOUT = re.compile(r"[0-9.]+(ms|s|m|h)?", re.ASCII)
"""What stood behind -t when that was the time limit."""


class Duration(click.ParamType[float]):
    """A duration with a unit, as in a profile: `500ms`, `10s`, `2m`, `1h`."""

    name = "duration"
    UNITS: Mapping[str, float] = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Give seconds."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value))
        if found is None or found[2] is None:
            meant = f": did you mean {value}s?" if found is not None else ""
            self.fail(f"{value!r} is not a duration as 500ms, 10s, 2m or 1h{meant}", param, ctx)
        return float(found[1]) * self.UNITS[found[2]]


def _trace_context(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value and not is_traceparent(value):
        source = context.get_parameter_source(parameter.name or "")
        said = "$TRACEPARENT " if source is ParameterSource.ENVIRONMENT else ""
        raise click.BadParameter(f"{said}{value!r} is no W3C trace context: 00-<32 hexadecimal "
                                 "digits>-<16>-<2>, in lower case and not all zero")  # fmt: skip
    return value


@click.command(
    "run",
    short_help="Run a program in a sandbox of its own.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "-p",
    "--profile",
    required=True,
    shell_complete=profile_names,
    help="The sandbox profile to run it under.",
)
@click.option(
    "-e",
    "--env",
    "variables",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a variable in the sandbox; nothing of our own environment is passed on.",
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="HOST:SANDBOX",
    help="Copy a file of this machine to a path under /work before the start.",
)
@click.option(
    "-o",
    "--output",
    "globs",
    multiple=True,
    metavar="GLOB",
    help="Fetch what this glob matches under /work afterwards; needs --output-dir.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the fetched files; made where it is missing.",
)
@click.option(
    "-t",
    "--terminal",
    "in_terminal",
    is_flag=True,
    help="In a terminal, which ours becomes: as large, and with what is typed. The profile has to "
    "say terminal: allow.",
)
@click.option(
    "-T",
    "--timeout",
    type=Duration(),
    metavar="DURATION",
    help="Stop the call after this time: 500ms, 10s, 2m; at most what the profile allows.",
)
@click.option(
    "-C",
    "--cwd",
    default="",
    metavar="PATH",
    help="Working directory inside the sandbox.  [default: /work]",
)
@click.option(
    "-i",
    "--stdin",
    metavar="-|FILE|none",
    help="Standard input of the program: ours, a file, or nothing. "
    "Ours where it is not a terminal, if not given.",
)
@click.option(
    "-d",
    "--detach",
    is_flag=True,
    help="Print the call's id once it is on record, and do not wait.",
)
@click.option("--agent", default="", help="For the record: the agent's name.")
@click.option("--session", "session_name", default="", help="For the record: the agent's session.")
@click.option("--workflow", default="", help="For the record: the workflow or task.")
@click.option(
    "--traceparent",
    default="",
    envvar="TRACEPARENT",
    callback=_trace_context,
    metavar="CONTEXT",
    help="For the record: W3C trace context.  [env TRACEPARENT]",
)
@click.option("--request-id", help="A UUID; a repeat with the same request attaches to the call.")
@click.option(
    "--kill-on-disconnect",
    is_flag=True,
    help="Stop the call when our connection to the daemon breaks.",
)
@click.option("-q", "--quiet", is_flag=True, help="No summary at the end.")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@daemon_options
@click.pass_context
def command(context: click.Context, /, argv: tuple[str, ...], **options: Any) -> None:
    """Run ARGV in a new sandbox under a profile, with its output here as it comes.

    The program's standard output and error are passed on unchanged. Ctrl-C sends SIGINT to the
    program, a second one kills the call; SIGTERM and SIGHUP are passed on likewise. What was
    denied, and which connections failed, is summed up on standard error. There is no shell unless
    ARGV names one.

    With -t, standard input, output and error are one terminal, and ours is raw until the call ends:
    Ctrl-C is the program's, and its terminal follows the size of ours. All that is typed is on
    record, passwords too. `stockade audit replay` shows the session again.

    With --json, standard output holds one JSON object a line for each event instead: `event` is
    accepted, started, output (`data` is base64), resized, denied, watched, processes, flow, lost,
    keep_alive or finished.

    \b
    Examples:
      stockade run -p python -- python3 -c 'print(6*7)'
      stockade run -p python -f data.csv:data.csv -o '*.png' --output-dir . -- python3 plot.py
      echo hello | stockade run -p shell -- tr a-z A-Z
      stockade run -p shell -T 10s -- sh -c 'exec sleep 60'; echo $?      # 124
      stockade run -t -p terminal -- bash

    \b
    Exit codes:
      N      the program's own
      124    it reached its time limit
      125    it was refused or did not start, a file for it could not be read (FILE_UNREADABLE),
             the connection was lost for good, its input broke off, or what it wrote could not
             be written here (OUTPUT_UNWRITABLE, OUTPUT_PATH); the reason is on standard error,
             with the call's id where it had started
      128+N  it was killed by signal N, also by a memory, output or other limit (137)
      2      wrong command line
    """
    current = session()
    terminal = _terminal(argv, options) if options["in_terminal"] else None
    try:
        arguments = _arguments(options)
        if terminal is not None:
            arguments["terminal"] = terminal.terminal
        with current.client() as client, _execute(client, argv, arguments, options) as execution:
            if options["detach"]:
                code = _tell_id(execution, as_json=current.json)
            else:
                code = _follow(client, execution, options, terminal, as_json=current.json)
    except StockadeError as error:
        out.report(error, as_json=current.json)
        code = outcome.EXIT_NOT_RUN
    context.exit(code)


def _tell_id(execution: Execution, *, as_json: bool) -> int:
    from supervisor.cli.streaming import unwritable

    try:
        if as_json:
            out.line({"call_id": execution.call_id})
        else:
            click.echo(execution.call_id)
    except OSError as error:
        return unwritable(execution, sys.stdout.buffer, error, as_json=as_json)
    return 0


def _follow(
    client: Supervisor,
    execution: Execution,
    options: dict[str, Any],
    terminal: LocalTerminal | None,
    *,
    as_json: bool,
) -> int:
    from supervisor.cli.streaming import add_hint, follow

    finished, code = follow(execution, as_json=as_json, quiet=options["quiet"], terminal=terminal)
    if finished is not None and options["output_dir"] is not None:
        try:
            quiet = options["quiet"] or as_json
            _save(client, finished, options["output_dir"], options["globs"], quiet=quiet)
        except StockadeError as error:
            error.metadata.setdefault("call_id", execution.call_id)
            add_hint(error, f"call {execution.call_id} has ended; its files: "
                            f"stockade audit cat --output PATH {execution.call_id}")  # fmt: skip
            raise
    return code


def _execute(
    client: Supervisor, argv: tuple[str, ...], arguments: dict[str, Any], options: dict[str, Any]
) -> Execution:
    return client.execute(
        argv,
        profile=options["profile"],
        cwd=options["cwd"],
        outputs=options["globs"],
        timeout=options["timeout"],
        agent=options["agent"],
        session=options["session_name"],
        workflow=options["workflow"],
        traceparent=options["traceparent"],
        request_id=options["request_id"],
        kill_on_disconnect=options["kill_on_disconnect"],
        **arguments,
    )


def _terminal(argv: tuple[str, ...], options: dict[str, Any]) -> LocalTerminal:
    """Give our terminal, and let it be standard input."""
    from supervisor.cli.terminal import LocalTerminal

    if _FORMER_TIMEOUT.fullmatch(argv[0]):
        raise click.UsageError(f"-t is for a terminal; a time limit is -T {argv[0]}")
    if options["detach"]:
        raise click.UsageError("--detach leaves nobody at the terminal of -t")
    if options["stdin"] not in (None, STDIN_OURS):
        raise click.UsageError("with -t, what is typed is standard input: leave --stdin out")
    if sys.stdin is None or sys.stdin.closed or not sys.stdin.isatty():
        raise click.UsageError(
            "-t needs a terminal as our standard input, and it is none: leave -t out, "
            "or give us one, as script(1) does"
        )
    options["stdin"] = STDIN_OURS
    return LocalTerminal(sys.stdin.fileno())


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Check and turn around the options that have a form of their own."""
    variables = environment(options["variables"])
    files = input_files(options["files"])
    if bool(options["globs"]) != (options["output_dir"] is not None):
        raise click.UsageError("--output and --output-dir belong together")
    if options["detach"] and (options["stdin"] == STDIN_OURS or options["globs"]):
        raise click.UsageError("--detach leaves nobody to pass on standard input or outputs")
    choice = STDIN_NONE if options["detach"] and not options["stdin"] else options["stdin"]
    return {"env": variables, "files": files, "stdin": standard_input(choice)}


def environment(given: tuple[str, ...]) -> dict[str, str]:
    """Read each NAME=VALUE."""
    variables = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{one!r} is not NAME=VALUE", param_hint="--env")
        variables[name] = value
    return variables


def input_files(given: tuple[str, ...]) -> dict[str, Path]:
    """Turn each HOST:SANDBOX around; a path in the sandbox is relative to /work."""
    files: dict[str, Path] = {}
    for one in given:
        host, colon, sandbox = one.rpartition(":")
        if not (host and colon and sandbox):
            raise click.BadParameter(f"{one!r} is not HOST:SANDBOX", param_hint="--file")
        if sandbox.startswith("/"):
            inside = sandbox.removeprefix(WORK) if sandbox.startswith(WORK) else ""
            hint = f": write {f'{host}:{inside}'!r}" if inside else ""
            problem = f"{one!r}: SANDBOX is a path below /work, without a leading slash{hint}"
            raise click.BadParameter(problem, param_hint="--file")
        if sandbox in files:
            problem = f"{sandbox!r} stands twice: {os.fspath(files[sandbox])!r} and {host!r}"
            raise click.BadParameter(problem, param_hint="--file")
        files[sandbox] = Path(host)
    return files


def standard_input(choice: str | None) -> bytes | BinaryIO:
    """Open what the program is to read; ours unasked only where it is not a terminal.

    Raises:
        InvalidRequest: `FILE_UNREADABLE`.
    """
    if choice == STDIN_NONE:
        return b""
    if choice == STDIN_OURS or choice is None:
        if sys.stdin is None or sys.stdin.closed or (choice is None and sys.stdin.isatty()):
            return b""
        # Unbuffered: a thread may still wait in it when we end, and Python aborts at exit where it
        # cannot take a buffer's lock.
        return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    try:
        return Path(choice).open("rb")
    except OSError as error:
        meant = "; -t alone is for a terminal" if choice == "t" else ""
        problem = f"--stdin: {choice}: {error.strerror}{meant}"
        raise InvalidRequest("FILE_UNREADABLE", problem, metadata={"path": choice}) from error


def _names(glob: str, path: str) -> bool:
    """Say whether a glob names a path, as the daemon's do: `**` is any number of parts."""
    parts = path.split("/")
    ends = {0}  # how many parts the glob so far may stand for
    for wanted in glob.split("/"):
        if wanted == "**":
            ends = set(range(min(ends), len(parts) + 1)) if ends else ends
        else:
            ends = {n + 1 for n in ends if n < len(parts) and fnmatch.fnmatchcase(parts[n], wanted)}
    return len(parts) in ends


def _save(
    client: Supervisor,
    finished: Finished,
    folder: Path,
    globs: tuple[str, ...],
    *,
    quiet: bool,
) -> None:
    from supervisor.client.collect import Outputs

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest("OUTPUT_UNWRITABLE", f"{folder}: {error.strerror}") from error
    if not quiet:
        for glob in globs:
            if not any(_names(glob, os.fsdecode(file.path)) for file in finished.outputs):
                out.note(f"--output {glob}: no file came of it")
    outputs = Outputs(finished.outputs, client.read_blob)
    for path in outputs.save(folder):
        if not quiet:
            size_bytes = path.stat().st_size
            out.note(f"wrote {os.fspath(path)} ({out.size(size_bytes)})")
