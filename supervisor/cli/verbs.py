"""`stockade VERB …`: its verbs and global options, and what an error looks like.

Verbs are loaded when they are used, so that `--help` and completion stay quick: nothing here
imports gRPC, pydantic or rich.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from typing import Any, NoReturn

import click

from supervisor import __version__
from supervisor.cli import standard
from supervisor.cli.output import report
from supervisor.cli.session import Session, daemon_options
from supervisor.errors import HostError, InvalidRequest, StockadeError

DAEMON_PACKAGES = frozenset(
    {
        "aiohappyeyeballs",
        "apsw",
        "cryptography",
        "dns",
        "google_crc32c",
        "grpc_health",
        "grpc_reflection",
        "h11",
        "idna",
        "orjson",
        "prometheus_client",
        "pydantic",
        "pyrage",
        "re2",
        "ruamel",
        "zstandard",
    }
)
"""What the extra `daemon` installs: a verb that needs one of them says so where it is missing."""

JSON_ASKED = "supervisor.cli.json"
"""Whether --json is among the arguments, in the context's `meta`."""

VERBS = {
    "run": "Run a program in a sandbox of its own.",
    "attach": "Follow a call that was started before.",
    "ps": "List calls.",
    "kill": "Stop calls.",
    "trace": "Look into calls with the host's BCC tools.",
    "profile": "Look at sandbox profiles, check and learn them.",
    "audit": "Read and verify the record.",
    "console": "Look at calls and records in a browser.",
    "export": "See to the sinks that the record is sent to.",
    "image": "Manage the images that profiles name.",
    "doctor": "Try every wall on this host.",
    "serve": "Run the daemon.",
    "completion": "Print the completion script of a shell.",
}
"""Verb → the short help of its command; each stands in a module of its own name."""


class Verbs(click.Group):
    """A group that imports a verb's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"supervisor.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def make_context(
        self, info_name: str | None, args: list[str], *rest: Any, **extra: Any
    ) -> click.Context:
        """Read the options; our help may be more than somebody reads."""
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except BrokenPipeError:
            standard.settle()
            raise click.exceptions.Exit(standard.EXIT_PIPE_CLOSED) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; name the nearest where there is none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], list(VERBS), n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what stands before the verb, and keep how errors are to be told."""
        options = args[: args.index("--")] if "--" in args else args
        ctx.meta[JSON_ASKED] = "--json" in options
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            _tell_usage(ctx, error)

    def invoke(self, ctx: click.Context) -> object:
        """Run a verb; an error of ours becomes a message and its exit code."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            _tell_usage(ctx, error)
        except StockadeError as error:
            report(error, as_json=ctx.ensure_object(Session).json)
            ctx.exit(error.exit_code)
        except ModuleNotFoundError as missing:
            if not _is_of_the_daemon(missing):
                raise
            extra = _extra_missing(ctx.invoked_subcommand or "", missing)
            report(extra, as_json=ctx.ensure_object(Session).json)
            ctx.exit(extra.exit_code)
        except BrokenPipeError:
            standard.settle()
            ctx.exit(standard.EXIT_PIPE_CLOSED)
        except OSError as error:
            standard.settle()  # Where it is standard output that failed, it would fail again.
            message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            report(StockadeError("OS_ERROR", message), as_json=ctx.ensure_object(Session).json)
            ctx.exit(StockadeError.exit_code)
        except KeyboardInterrupt:
            ctx.exit(standard.EXIT_INTERRUPTED)


def _tell_usage(ctx: click.Context, error: click.UsageError) -> NoReturn:
    """Say what is wrong with the command line. Where that could not be read to its end, nobody
    knows whether --json was an option or a word of the program: it counts as one."""
    asked = ctx.meta[JSON_ASKED] or ctx.ensure_object(Session).json
    if not asked or isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
    where = error.ctx.command_path if error.ctx is not None else ctx.command_path
    hint = f"{where} --help"
    report(InvalidRequest("USAGE_INVALID", error.format_message(), hint=hint), as_json=True)
    ctx.exit(error.exit_code)


def _extra_missing(verb: str, missing: ModuleNotFoundError) -> HostError:
    return HostError(
        "EXTRA_MISSING",
        f"this use of `stockade {verb}` needs the daemon's packages: "
        "pip install 'stockade[daemon]'",
        metadata={"module": missing.name or ""},
    )


def _is_of_the_daemon(missing: ModuleNotFoundError) -> bool:
    """Say whether a package of the extra is not installed; any other module is a bug of ours."""
    package = (missing.name or "").partition(".")[0]
    return package in DAEMON_PACKAGES and importlib.util.find_spec(package) is None


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@daemon_options
@click.version_option(__version__, "--version", prog_name="stockade", help="Print the version.")
def cli() -> None:
    """Run every tool call of an AI agent in a sandbox of its own, and keep the record.

    \b
    Examples:
      stockade serve --state /var/lib/stockade
      stockade run -p python -- python3 -c 'print(6*7)'
      stockade ps
      stockade audit show CALL

    \b
    Exit codes:
      0  done                       5  this host cannot raise a wall
      1  a failure or a bug         6  no room now; try later
      2  a wrong request, profile   7  no daemon, or it cannot write its record
         or command line            8  the record is damaged
      3  no such thing, or too late 130  interrupted
      4  not allowed                141  nobody reads the output any more, as SIGPIPE
    `run` and `attach` give the program's own exit code instead; see their help.

    With --json a refusal, or a wrong command line, is one line of JSON on standard error instead
    of text: {"error": {"reason", "message", "hint", "metadata"}}, with `retry_after_s` where trying
    again makes sense.
    """
