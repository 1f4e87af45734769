"""`stockade trace`: look into live calls with one of the host's BCC tools."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from supervisor.cli import output as out
from supervisor.cli.completion import live_call_ids
from supervisor.cli.folders import runtime_option
from supervisor.cli.session import json_option, session
from supervisor.errors import HostError, StockadeError

if TYPE_CHECKING:
    from supervisor.sandbox.tracing import Scope

PASSED_ON = ("TERM", "BCC_KERNEL_SOURCE")
"""Of our environment, a tool gets these, our search path and nothing else."""

CALL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
USAGE = 2
"""What a tool ends with that does not take its arguments (argparse): no fault of the kernel's."""

LOOK_MS = 200
GRACE_S = 5.0
KILLED_S = 1.0


def _words(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a call first, then a tool."""
    given: Sequence[str] = context.params.get("words") or ()
    if len(given) > (0 if context.params.get("everything") else 1):
        return []
    if not given and not context.params.get("everything"):
        return live_call_ids(context, parameter, incomplete)
    from supervisor.linux import bcc

    found = [name for name, tool in bcc.tools(search_path()).items() if bcc.mentions_option(tool)]
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


@click.command(
    "trace",
    short_help="Look into calls with the host's BCC tools.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--all", "everything", is_flag=True, help="All live calls, also those to come.")
@click.option("--list", "listing", is_flag=True, help="List the tools that can look at calls.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="The daemon's state folder, where several daemons run.",
)
@runtime_option(help="The daemon's --runtime-dir.")
@click.argument(
    "words",
    nargs=-1,
    metavar="[CALL] TOOL [ARGS]...",
    type=click.UNPROCESSED,
    shell_complete=_words,
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    everything: bool,
    listing: bool,
    state: Path | None,
    runtime_folder: Path,
    words: tuple[str, ...],
) -> None:
    """Run TOOL, one of the host's BCC tools, so that it sees CALL alone, or with --all every live
    call. It is given `--cgroupmap` with a map of the calls' cgroups, and ARGS. Needs root on the
    daemon's host, and no grant to call.

    TOOL is named with or without `-bpfcc`, and comes from a folder of $PATH that only root can
    write (`apt-get install bpfcc-tools`). Most tools need kprobes and the kernel's headers. A tool
    takes seconds to begin: for short calls, start it with --all beforehand. It ends with the call,
    or with the daemon. What a process does in a cgroup below its call's is not seen; a sandbox can
    make none.

    With --list --json, one document: `tools` (`name`, `path`) and `maps`, of all live calls, one
    of each daemon; only root sees those.

    \b
    Examples:
      sudo stockade trace --list
      sudo stockade trace 0199a3f2-6c1d-7b4e-9a55-3f0c8d2e71b6 opensnoop
      sudo stockade trace --all execsnoop -T

    \b
    Exit codes:
      0  the call ended, and the tool with it
      2  the tool takes no --cgroupmap, or several daemons run
      3  no such call lives
      5  not root; the tool is not installed, or the kernel lacks what it needs
      7  no daemon runs
    and otherwise the tool's own.
    """
    if listing:
        if words or everything:
            raise click.UsageError("--list takes nothing else")
        _list(runtime_folder, state)
        return
    if len(words) < (1 if everything else 2):
        raise click.UsageError("give --all and a TOOL, or a CALL and a TOOL; --list shows tools")
    if everything and CALL_ID.fullmatch(words[0]):
        raise click.UsageError("--all is every call: give either --all or a CALL, then the TOOL")
    call_id = None if everything else words[0]
    name, *arguments = words if everything else words[1:]
    if any(argument.startswith("--cgroup") for argument in arguments):
        raise click.UsageError("--cgroupmap is what this verb gives the tool")
    try:
        code = _trace(call_id, name, arguments, runtime_folder, state)
    except StockadeError as error:
        if ours := _ours(context.command, arguments):
            more = f"{ours} stands after TOOL, so it is the tool's: ours go before TOOL"
            error.hint = f"{error.hint}; {more}" if error.hint else more
        raise
    context.exit(code)


def _ours(command: click.Command, arguments: Sequence[str]) -> str:
    """Give the first of a tool's arguments that is named as an option of this verb."""
    names = {name for one in command.params for name in one.opts if name.startswith("--")}
    given = (argument.partition("=")[0] for argument in arguments)
    return next((name for name in given if name in names), "")


def search_path() -> str:
    """Give the folders where tools are looked for: the user's, or our own programs'."""
    from supervisor.linux.process import ENVIRONMENT

    return os.environ.get("PATH") or ENVIRONMENT["PATH"]


def _list(runtime: Path, state: Path | None) -> None:
    from supervisor.linux import bcc
    from supervisor.sandbox.tracing import daemons

    found = [(n, tool) for n, tool in bcc.tools(search_path()).items() if bcc.mentions_option(tool)]
    running = daemons(runtime, state) if os.geteuid() == 0 else []
    maps = [daemon.live for daemon in running if daemon.live.exists()]
    if session().json:
        listed = [{"name": name, "path": os.fspath(tool)} for name, tool in found]
        out.document({"tools": listed, "maps": [os.fspath(path) for path in maps]})
        return
    out.table(
        ("TOOL", "PATH"),
        [(name, os.fspath(tool)) for name, tool in found],
        empty="no BCC tools that can look at calls: apt-get install bpfcc-tools",
    )
    for path in maps:
        out.note(f"the live calls' cgroups, for --cgroupmap: {path}")
    if os.geteuid() != 0:
        out.note("which daemons run, and their maps, only root sees")
    elif not running:
        out.note(f"no daemon runs over {runtime}, so there is no call to look at")
    for daemon in running:
        if not daemon.live.exists():
            out.note(f"the daemon {daemon.pid} runs, but its map is not there: {daemon.live}")
    for lack in bcc.kernel_lacks():
        out.note(lack)


def _trace(
    call_id: str | None, name: str, arguments: list[str], runtime: Path, state: Path | None
) -> int:
    from supervisor.linux import bcc
    from supervisor.sandbox.tracing import scope_of

    if os.geteuid() != 0:
        raise HostError("ROOT_REQUIRED", "tracing calls needs root", hint="sudo stockade trace …")
    path = search_path()
    scope = scope_of(call_id, runtime, state)
    tool = bcc.find_tool(name, path)
    bcc.require_option(tool, path)
    with _undisturbed() as asked, scope.pinned() as pinned:
        argv = [os.fspath(tool), bcc.OPTION, os.fspath(pinned), *arguments]
        code, ended = _supervise(argv, scope, asked)
    if ended:
        out.note(f"{ended}, and {tool.name} with it")
        return 0
    lacks = list(bcc.kernel_lacks())
    if code not in (0, USAGE) and lacks and not asked:
        raise HostError(
            "TOOL_FAILED",
            f"{tool.name} ended with {code}; what it said stands above",
            hint="; ".join(lacks),
        )
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _undisturbed() -> Iterator[list[int]]:
    """Live on where somebody stops us, until the tool has ended and its map is removed; give by
    which signals."""
    asked: list[int] = []
    former = {
        number: signal.signal(number, lambda number, _: asked.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _supervise(argv: Sequence[str], scope: Scope, asked: Sequence[int]) -> tuple[int, str]:
    """Run a tool; give its exit code, and why it was ended where that was us."""
    from supervisor.linux.process import ENVIRONMENT

    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
    environment |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with contextlib.ExitStack() as stack:
        try:
            daemon = os.pidfd_open(scope.daemon.pid)
        except ProcessLookupError:
            return 0, "the daemon has ended"
        stack.callback(os.close, daemon)
        tool = subprocess.Popen(argv, env=environment, preexec_fn=_end_with_us)
        stack.callback(_end, tool)
        pidfd = os.pidfd_open(tool.pid)
        stack.callback(os.close, pidfd)
        poll = select.poll()
        for fd in (daemon, pidfd):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(LOOK_MS)}
            if pidfd in ready:
                return tool.wait(), ""
            if daemon in ready:
                return 0, "the daemon has ended"
            if not scope.lives():
                return 0, "the call has ended" if scope.folder is not None else "its map is gone"
            if asked:
                if asked[0] == signal.SIGINT:
                    # A terminal's Ctrl-C has reached the tool, too: a second one would cut short
                    # what it prints at the end.
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        tool.wait(GRACE_S)
                _end(tool)


def _end_with_us() -> None:
    """Let the kernel end the tool where we are killed: it would look at nothing for ever."""
    from supervisor.linux.syscalls import PR_SET_PDEATHSIG, prctl

    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(tool: subprocess.Popen[bytes]) -> None:
    """End a tool as Ctrl-C would, since many print what they have counted then; or by force."""
    for number, patience_s in ((signal.SIGINT, GRACE_S), (signal.SIGKILL, KILLED_S)):
        if tool.poll() is None:
            tool.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                tool.wait(patience_s)
