"""Row 22: a secret goes to its host, in its header, and nowhere else. The sandbox never has it."""

from __future__ import annotations

import base64
import re

import pytest

from tests.egress.arena import PROGRAMS, Trial, tried
from tests.egress.arena import SECRET as VALUE
from tests.egress.servers import places
from tests.support.daemon import Daemon
from tests.support.world import PYTHON, World

PROGRAM = "send_secret.py"

PLACEHOLDER = re.compile("stockade-secret-github-[0-9a-f]{32}")

WRONG = (
    ("authorization", "files.example.com", 80), ("another header", "files.example.com", 80),
    ("path", "files.example.com", 80), ("query", "files.example.com", 80),
    ("body", "files.example.com", 80), ("body in two", "files.example.com", 80),
    ("basic", "files.example.com", 80), ("hexadecimal", "files.example.com", 80),
    ("authorization", "four.example.com", 80),
    ("bare", "files.example.com", places.ECHO), ("bare in two", "files.example.com", places.ECHO),
    ("another header", "api.github.com", 443), ("path", "api.github.com", 443),
    ("body", "api.github.com", 443),
)  # fmt: skip
"""How, to whom. Hosts on 443 are spoken to in TLS that ends at the broker."""


def send(daemon: Daemon, how: str, host: str, port: int) -> Trial:
    argv = ["python3", PROGRAM, how, host, str(port), *(["tls"] * (port == 443))]
    files = {PROGRAM: PROGRAMS / PROGRAM}
    return tried(daemon, daemon.client.run(argv, profile="terminating", files=files))


def seen(there: World, mark: int) -> str:
    """Give all that was said to servers, and how much to those that keep no text."""
    return repr(there.settled(mark, "request", "bytes"))


@pytest.mark.parametrize(("how", "host", "port"), WRONG)
def test_a_secret_goes_anywhere_without_walls(there: World, how: str, host: str, port: int) -> None:
    mark = there.mark()
    tls = ["tls"] * (port == 443)
    done = there.unconfined(
        [PYTHON, PROGRAMS / PROGRAM, how, host, str(port), *tls],
        env={"STOCKADE_SECRET_GITHUB": VALUE, "SSL_CERT_FILE": str(there.ca)},
    )
    assert done.returncode == 0, done.stderr
    everything = seen(there, mark) + done.stdout.decode()
    if how.startswith("body"):
        assert "canary" in everything
        return
    forms = (VALUE, VALUE.encode().hex(), base64.b64encode(f"user:{VALUE}".encode()).decode())
    assert any(form in everything for form in forms)


@pytest.mark.parametrize(("how", "host", "port"), WRONG)
def test_a_placeholder_goes_nowhere(
    there: World, daemon: Daemon, how: str, host: str, port: int
) -> None:
    mark = there.mark()
    trial = send(daemon, how, host, port)
    said = seen(there, mark) + trial.call.stdout.decode()
    assert VALUE not in said
    assert not PLACEHOLDER.search(said)
    assert "canary" not in said
    told = trial.denials(("network", "secret"), says=f"{host}:{port}")
    assert told, (said, trial.denied, trial.flows)
    assert all(body["rule"].startswith("egress: ") and body["pid"] > 0 for body in told)
    assert VALUE not in repr((trial.denied, trial.flows))


@pytest.mark.parametrize("how", ["authorization", "basic"])
def test_a_secret_is_put_where_it_belongs(there: World, daemon: Daemon, how: str) -> None:
    mark = there.mark()
    trial = send(daemon, how, "api.github.com", 443)
    (request,) = there.settled(mark, "request")
    wanted = {
        "authorization": f"Bearer {VALUE}",
        "basic": f"Basic {base64.b64encode(f'user:{VALUE}'.encode()).decode()}",
    }
    assert request["headers"]["authorization"] == wanted[how]
    assert f"{there.token} of api.github.com" in trial.call.stdout.decode()
    assert trial.denied == ()


def test_a_spoofed_host_gets_no_secret(there: World, daemon: Daemon) -> None:
    mark = there.mark()
    trial = send(daemon, "spoofed host", "files.example.com", 80)
    assert there.settled(mark, "request") == []
    assert trial.denials(("network", "http"), ("network", "secret"), says="files.example.com:80")


def test_the_sandbox_never_has_it(daemon: Daemon) -> None:
    script = "env; cat /proc/1/environ /proc/self/environ; grep -ra ghp_ /work /etc /run 2>&1"
    call = daemon.client.run(["sh", "-c", script], profile="terminating")
    assert b"STOCKADE_SECRET_GITHUB=stockade-secret-github-" in call.stdout
    assert VALUE.encode() not in call.stdout + call.stderr
