"""The daemon's own log in a real journal."""

from __future__ import annotations

import logging

import pytest

from supervisor.call.about import of_call
from supervisor.cli import logs
from tests.support.journald import journald


@pytest.mark.root
def test_a_message_has_its_call_and_its_priority() -> None:
    with journald() as running:
        handler = logs.JournalHandler(running.socket, instead=logging.NullHandler())
        make = logging.getLogger("stockade").makeRecord
        for text in ("no\n<0>forged\x1b[2K", "yes"):
            handler.handle(
                make("stockade", 40, "f", 1, "it said %s", (text,), None, extra=of_call("0198"))
            )
        handler.close()
        first, second = running.entries(2)
    assert (first["STOCKADE_CALL"], first["PRIORITY"]) == ("0198", "3")
    assert first["MESSAGE"] == "it said no\\n<0>forged\\e[2K"
    assert second["MESSAGE"] == "it said yes"
