"""What an agent imports: run programs in sandboxes of the daemon, and read their record.

    from supervisor.client import Supervisor

    with Supervisor() as supervisor:
        call = supervisor.run(["python3", "-c", "print(6 * 7)"], profile="python")
        print(call.stdout)

`execute` gives the events as they come; each has its place in the record, and what happened as
its `event`:

    with supervisor.execute(["make", "test"], profile="python") as execution:
        for item in execution:
            match item.event:
                case Output(data=data):
                    sys.stdout.buffer.write(data)
                case Denied(name=name, count=count):
                    print(f"{name} was denied {count} times")
                case Finished(outcome=outcome):
                    print(outcome)

Needs the base install only. It never decides anything about policy: it names a profile, and the
daemon does the rest.
"""

import importlib.util


def _refuse_supervisord() -> None:
    """Say plainly when PyPI's `supervisor` (supervisord) shares this package's folder."""
    ours = importlib.util.find_spec("supervisor.errors") is not None
    theirs = importlib.util.find_spec("supervisor.supervisord") is not None
    if theirs or not ours:
        raise ImportError(
            "the package `supervisor` here is not (only) Stockade's: PyPI's `supervisor` "
            "(supervisord) uses the same name, and the two must not share an environment. "
            "Uninstall one of them, or give Stockade a virtual environment of its own: "
            "`python3 -m venv .venv && .venv/bin/pip install stockade`."
        )


_refuse_supervisord()

from supervisor.call.events import (  # noqa: E402
    Accepted,
    CallEvent,
    Denied,
    Finished,
    Flow,
    KeepAlive,
    Lost,
    Output,
    Processes,
    Resized,
    Started,
    Verdict,
    Watched,
)
from supervisor.call.types import Digest, Stream, Terminal  # noqa: E402
from supervisor.client.address import DEFAULT_ADDRESS, Tls  # noqa: E402
from supervisor.client.aio import AsyncSupervisor  # noqa: E402
from supervisor.client.aio_execution import AsyncExecution  # noqa: E402
from supervisor.client.collect import AsyncFinishedCall, FinishedCall  # noqa: E402
from supervisor.client.execution import Execution  # noqa: E402
from supervisor.client.follow import Retry  # noqa: E402
from supervisor.client.request import Stored  # noqa: E402
from supervisor.client.sinks import (  # noqa: E402
    DeadLetter,
    Redelivered,
    Sink,
    SinkReplay,
    SinksReloaded,
    SinkStatus,
    SinkTest,
)
from supervisor.client.sync import Supervisor  # noqa: E402
from supervisor.client.values import (  # noqa: E402
    Call,
    Erased,
    Finding,
    Profile,
    ProfileSummary,
    Record,
    RecordEntry,
    Removed,
    Retention,
)
from supervisor.errors import OutcomeError, StockadeError, Unreachable  # noqa: E402

__all__ = [
    "DEFAULT_ADDRESS",
    "Accepted",
    "AsyncExecution",
    "AsyncFinishedCall",
    "AsyncSupervisor",
    "Call",
    "CallEvent",
    "DeadLetter",
    "Denied",
    "Digest",
    "Erased",
    "Execution",
    "Finding",
    "Finished",
    "FinishedCall",
    "Flow",
    "KeepAlive",
    "Lost",
    "OutcomeError",
    "Output",
    "Processes",
    "Profile",
    "ProfileSummary",
    "Record",
    "RecordEntry",
    "Redelivered",
    "Removed",
    "Resized",
    "Retention",
    "Retry",
    "Sink",
    "SinkReplay",
    "SinkStatus",
    "SinkTest",
    "SinksReloaded",
    "Started",
    "StockadeError",
    "Stored",
    "Stream",
    "Supervisor",
    "Terminal",
    "Tls",
    "Unreachable",
    "Verdict",
    "Watched",
]
