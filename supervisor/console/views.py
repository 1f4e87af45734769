"""The pages as HTML: templates in which nothing is anything but text.

Every value goes through `shown` on its way into a page, whatever the template says, and is escaped
after that: what is not printable becomes an escape, as in a terminal. No filter undoes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from supervisor.call import outcome
from supervisor.call.events import Finished, Timeline
from supervisor.call.safe import command, safe
from supervisor.cli import output as out
from supervisor.cli.story import reached
from supervisor.client import Call

FOLDER = Path(__file__).with_name("templates")
ARGV_WIDTH = 160
TIMELINE_WIDTH = 1000
BAR_MIN = 2


def shown(value: object) -> object:
    """Make a value harmless: text without controls but line ends and tabs, markup of ours as it
    is."""
    if isinstance(value, Markup):
        return value
    lines = str(value).split("\n")
    return "\n".join("\t".join(safe(part) for part in line.split("\t")) for line in lines)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for name in ("safe", "forceescape", "xmlattr", "urlize", "striptags", "tojson"):
        del environment.filters[name]  # each can make markup of what is none
    return environment


_pages = _environment()
_loaded = {name: _pages.get_template(name) for name in _pages.list_templates()}
"""All of them, while there is a folder to read them from."""


def render(name: str, **values: Any) -> str:
    """Give a page.

    Raises:
        jinja2.UndefinedError: a value of the template is missing.
    """
    return _loaded[name].render(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A call in a list."""

    call_id: str
    time: str
    caller: str
    agent: str
    profile: str
    state: str
    bad: bool
    denials: int
    command: str


def line(call: Call) -> Line:
    """Give a call as a line of a list."""
    finished = call.finished
    return Line(
        call_id=call.call_id,
        time=out.moment(call.accepted_ns),
        caller=call.caller.name,
        agent=call.correlation.agent,
        profile=call.profile,
        state=ended(finished) if finished is not None else str(call.state),
        bad=finished is not None and outcome.exit_code(finished.outcome) != 0,
        denials=call.denials,
        command=command(call.argv, ARGV_WIDTH),
    )


def ended(finished: Finished) -> str:
    """Say how a call ended."""
    return outcome.describe(finished.outcome, started=finished.timeline.started_ns > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A phase of a call in a picture that is TIMELINE_WIDTH wide."""

    name: str
    x: int
    width: int
    took: str


def bars(timeline: Timeline) -> Sequence[Bar]:
    """Give the phases of a call that has ended as a picture; none where it came to one alone."""
    phases = reached(timeline)
    if len(phases) < 2:
        return []
    begin_ns, end_ns = phases[0][1], max(time_ns for _, time_ns in phases)
    whole_ns = max(1, end_ns - begin_ns)
    found = []
    for (name, at_ns), (_, next_ns) in itertools.pairwise(phases):
        x = max(0, at_ns - begin_ns) * TIMELINE_WIDTH // whole_ns
        width = max(BAR_MIN, max(0, next_ns - at_ns) * TIMELINE_WIDTH // whole_ns)
        took = out.duration(max(0, next_ns - at_ns) / 1e9)
        found.append(Bar(name=name, x=min(x, TIMELINE_WIDTH - BAR_MIN), width=width, took=took))
    return found


def live_json(lines: Sequence[Line], more: bool) -> Mapping[str, Any]:
    """Give lines for the script of the page, each value as harmless as in a page."""
    rows = [
        [str(shown(value)) for value in (
            one.call_id, one.time, one.caller, one.agent, one.profile, one.state, one.denials,
            one.command,
        )]
        for one in lines
    ]  # fmt: skip
    return {"rows": rows, "more": more}
