"""The entry point: what is settled before anything large is imported, and how we end.

An interruption may come while we import, and help may have nowhere to be written; neither is a
reason for a traceback.
"""

from __future__ import annotations

import os
import signal
import sys

from supervisor.cli import standard


def main() -> None:
    """Run the command line and exit."""
    try:
        standard.reopen()
        # Lines of gRPC's C core are in a form of their own; what matters comes back as an error.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        _run()
    except KeyboardInterrupt:
        sys.exit(standard.EXIT_INTERRUPTED)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # What is left is Python's own end, where an interruption would be a traceback again.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        standard.settle()


def _run() -> None:
    from supervisor.cli.output import report
    from supervisor.cli.verbs import cli
    from supervisor.errors import StockadeError

    try:
        try:
            cli(prog_name="stockade", auto_envvar_prefix=None)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(standard.EXIT_PIPE_CLOSED)  # `main` lets go what is left
    except OSError as error:
        standard.settle()
        report(StockadeError("OS_ERROR", error.strerror or str(error)), as_json=False)
        sys.exit(StockadeError.exit_code)


if __name__ == "__main__":
    main()
