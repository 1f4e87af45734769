"""Every refusal is counted; a log line speaks for all of its kind for a while."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from supervisor.api import refusals
from supervisor.api.refusals import QUIET_S, Refusals
from supervisor.audit.chosen import Chosen
from supervisor.audit.masks import Masks
from supervisor.errors import (
    CapacityError,
    InvalidRequest,
    NotFound,
    NotPermitted,
    StockadeError,
    Unauthenticated,
)
from supervisor.v1 import audit_pb2, profile_pb2
from tests.unit.api.harness import connected, execute_request, refused, run

DENIED = NotPermitted("AUDIT_NOT_GRANTED", "no")


CHOSEN = Chosen(Masks(b"k" * 32))
TOKEN = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"


class Desk:
    """Refusals at a time that stands still."""

    def __init__(self) -> None:
        self.counted: list[str] = []
        self.now_s = 100.0
        self.refusals = Refusals(self.counted.append, lambda: self.now_s, CHOSEN.text)

    def note(self, error: StockadeError = DENIED, key: str = "a", **more: str) -> None:
        fields = {"method": "/m", "who": f"caller {key!r} (uid 1, pid 2)", "key": key, **more}
        self.refusals.note(error, **fields)  # type: ignore[arg-type]


@pytest.fixture
def desk(caplog: pytest.LogCaptureFixture) -> Desk:
    caplog.set_level(logging.DEBUG, "stockade")
    return Desk()


def test_one_line_says_who_and_why(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.note(profile="build")
    (line,) = caplog.messages
    for part in ("/m", "caller 'a' (uid 1, pid 2)", "AUDIT_NOT_GRANTED", "build", "no"):
        assert part in line
    assert desk.counted == ["AUDIT_NOT_GRANTED"]


def test_a_flood_is_one_line(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        desk.note()
    assert len(caplog.messages) == 1
    assert len(desk.counted) == 50
    desk.now_s += QUIET_S
    desk.note()
    assert len(caplog.messages) == 2
    assert "49 more" in caplog.messages[1]


def test_other_callers_and_reasons_have_lines_of_their_own(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.note()
    desk.note(key="b")
    desk.note(NotPermitted("PROFILE_NOT_GRANTED", "no"))
    assert len(caplog.messages) == 3


def test_what_is_kept_is_bounded(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(refusals.KEYS_MAX * 2):
        desk.note(key=str(number))
    assert len(caplog.messages) == refusals.KEYS_MAX + 1
    desk.now_s += QUIET_S
    desk.note(key="later")
    assert "later" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (DENIED, logging.WARNING),
        (Unauthenticated("PEER_UNKNOWN", "x"), logging.WARNING),
        (CapacityError("CALLS_LIMIT", "x"), logging.WARNING),
        (InvalidRequest("MALFORMED_REQUEST", "x"), logging.WARNING),
        (InvalidRequest("ARGV_EMPTY", "x"), logging.INFO),
        (NotFound("CALL_NOT_FOUND", "x"), logging.INFO),
    ],
)
def test_levels(
    error: StockadeError, level: int, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.note(error)
    assert [record.levelno for record in caplog.records] == [level]


def test_what_a_caller_chose_cannot_look_like_our_line(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.note(NotFound("X", "a\x1b[2Jb\nc"), method="/m\n/n", profile="p\rq" + "x" * 1000)
    (line,) = caplog.messages
    assert line.isprintable()
    assert len(line) < 1000


def test_refusals_of_every_service_are_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stockade")

    async def main() -> None:
        config = {"callers": [{"name": "me", "uid": os.getuid(), "profiles": ["python"]}]}
        async with connected(tmp_path, config) as (running, client):
            for answer, reason in (
                (client.audit.ListRecords(audit_pb2.ListRecordsRequest()), "AUDIT_NOT_GRANTED"),
                (
                    client.tool.Execute(execute_request(b"x", profile="shell")),
                    "PROFILE_NOT_GRANTED",
                ),
                (
                    client.profile.GetProfile(profile_pb2.GetProfileRequest(name="shell")),
                    "PROFILE_NOT_FOUND",
                ),
                (client.channel.unary_unary("/a.B/C")(b""), "METHOD_UNKNOWN"),
            ):
                assert (await refused(answer)).reason == reason
                count = running.metrics.registry.get_sample_value
                assert count("stockade_rejects_total", {"reason": reason}) == 1
                (line,) = [line for line in caplog.messages if reason in line]
                assert f"caller 'me' (uid {os.getuid()}, pid {os.getpid()})" in line
            assert "(profile shell)" in next(m for m in caplog.messages if "NOT_GRANTED (" in m)

    run(main())


def test_a_stranger_is_named_by_its_socket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        config = {"callers": [{"name": "other", "uid": os.getuid() + 1, "profiles": []}]}
        async with connected(tmp_path, config) as (_, client):
            await refused(client.tool.Execute(execute_request(b"x")))
            (line,) = [line for line in caplog.messages if "PEER_UNKNOWN" in line]
            assert f"uid {os.getuid()}, pid {os.getpid()}" in line

    run(main())


def test_a_line_has_no_secret_that_a_caller_put_into_a_name(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.note(NotPermitted("AUDIT_NOT_GRANTED", f"no profile {TOKEN!r}"), profile=TOKEN)
    (line,) = caplog.messages
    assert "ghp_" not in line
    assert line.count("[REDACTED:github-token:") == 2
