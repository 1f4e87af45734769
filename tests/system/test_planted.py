"""200 planted secrets through a real call's every way onto the record: none is on the disk, and the
caller got each as it was. Control: a profile that redacts nothing leaves them there."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.audit.verify import verify
from supervisor.call.outcome import Failed
from supervisor.client import FinishedCall
from tests.support.daemon import Daemon, running_daemon
from tests.support.planted import credentials, left
from tests.support.profiles import with_profiles

SECRETS = 200
GROUP = 10
"""Secrets of one call: what the probes tell of its argv has room in one entry."""

SCRIPT = r"""
cat; cat given >&2; cat given sent >left; env >>left
/bin/echo "$@" >/dev/null
"""
LARGE_LINES = 70_000  # does not fit into a request: it is sent before


def one_call(daemon: Daemon, profile: str, group: list[tuple[bytes, bytes]]) -> FinishedCall:
    texts = [text for text, _ in group]
    lines = b"\n".join(texts) + b"\n"
    large = b"an ordinary line\n" * LARGE_LINES + lines
    call = daemon.client.run(
        ["sh", "-c", SCRIPT, b"sh", *texts],
        profile=profile,
        env={f"V{number}": text for number, text in enumerate(texts)},
        cwd="/work",
        files={"given": lines, "sent": large},
        outputs=["left"],
        stdin=lines,
        timeout=50,
    )
    assert call.stdout == lines
    assert call.stderr == lines
    assert call.outputs["left"].startswith(lines + large)
    assert all(text in call.outputs["left"] for text in texts)
    return call


def failing(daemon: Daemon, profile: str, text: bytes) -> None:
    """Let an error text, a denial and a reason tell a secret."""
    path = b"/nowhere/" + text.replace(b"/", b"_").replace(b"\n", b"_")
    call = daemon.client.run([path], profile=profile)
    assert isinstance(call.outcome, Failed) and call.outcome.message
    with daemon.client.execute(["sleep", "50"], profile=profile) as execution:
        execution.signal(9, why=text.decode())
        execution.wait()


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["redacts", "as-it-is"])
def test_planted_secrets(tmp_path: Path, profile: str) -> None:
    redacts = profile == "redacts"
    planted = credentials(SECRETS if redacts else 2 * GROUP)
    config = with_profiles(
        tmp_path / "profiles",
        **{"redacts": "", "as-it-is": "record: {redact: {off: A control}}"},
    )
    with running_daemon(config=config, folder=tmp_path) as daemon:
        for first in range(0, len(planted), GROUP):
            call = one_call(daemon, profile, planted[first : first + GROUP])
        token = next(text for text, secret in planted if text == secret and len(text) < 60)
        failing(daemon, profile, token)
        entries = daemon.client.record(call.call_id).entries
        told = [one.body()["body"] for one in entries]
        files = [one for body in told for one in body.get("redacted_files", ())]
        # What was sent before its call was known is cleaned in any case.
        assert len(files) == (3 if redacts else 1)
        assert all(stored and count >= GROUP for _, _, stored, _, count in files)
        assert daemon.stop() == 0
        secrets = [secret for _, secret in planted]
        found = left(daemon.state, secrets)
        assert (found == []) if redacts else (len(found) > len(secrets) * 0.9)
        report = verify(daemon.state)
        assert report.ok, "\n".join(map(str, report.problems))
