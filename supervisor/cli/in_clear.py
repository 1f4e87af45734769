"""Secrets that somebody wrote into a profile: profiles are kept on record as they are written.

Their digest is over every byte, so nothing is replaced in them: all that is left is to say so. The
line itself is not shown, neither by `lint` nor in the daemon's log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.audit.redaction.rules import Rules
    from supervisor.profile.load import Problem, ProfileSet
    from supervisor.profile.yaml_source import Document, Location

HINT = (
    "have the daemon hand it out: `secrets:` here, and its source in the configuration; or let the "
    "caller send it in its request, where it is replaced"
)

log = logging.getLogger("stockade")


def in_clear(profiles: ProfileSet) -> dict[Problem, str]:
    """Give what looks like a secret in profiles and fragments, by the pack of rules or by the name
    of a variable, each with whose it is: `profile NAME`, `fragment NAME`."""
    from supervisor.audit.redaction.rules import shipped

    pack = shipped()
    return {
        replace(document.problem(location, message, HINT), source=""): whose
        for whose, document in profiles.documents()
        for location, message in _found(document, pack)
    }


def warn_of_secrets(profiles: ProfileSet) -> None:
    """Tell the daemon's log where profiles hold secrets, and not which."""
    for found, whose in in_clear(profiles).items():
        place = f"{found.file}:{found.line}:{found.column}"
        log.warning("%s: %s: %s; %s", whose, place, found.message, found.hint)


def _found(document: Document, pack: Rules) -> Iterator[tuple[Location, str]]:
    from supervisor.profile.yaml_source import dotted

    for location, text in _texts(document.data, ()):
        data = text.encode(errors="surrogateescape")
        found = pack.find(data, 0, len(data))
        rule = found[0] if found is not None else None
        if len(location) == 2 and location[0] == "env":
            rule = rule or pack.of_name(str(location[1]).encode(), data)
        if rule is not None:
            message = f"{dotted(location)} looks like a secret ({rule.id}), and is kept as written"
            yield location, message


def _texts(value: object, location: Location) -> Iterator[tuple[Location, str]]:
    """Give each value in a document as text, with where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*location, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _texts(inner, (*location, place))
    elif not isinstance(value, bool):
        yield location, str(value)
