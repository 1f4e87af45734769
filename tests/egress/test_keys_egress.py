"""Each key of `egress` and `secrets`, by its effect on a real call: with it, and without.

What a test here shows is only that the key is wired; how far it holds is shown elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited, LimitExceeded
from supervisor.client import FinishedCall
from supervisor.errors import ProfileError
from supervisor.profile.load import ProfileSet
from tests.egress.servers import places
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import SHIPPED, with_profiles
from tests.support.world import World

SOCKETS = 'syscalls: {allow: ["@network-io"]}'
FILES = "host: files.example.com, port: 80"
SHOWN = "name: token, header: X-Token, host: files.example.com"
VALUE = "0123456789-the-secret"
OTHER_VALUE = "9876543210-the-other"


def body(*rules: str, secret: str = "", more: str = "") -> str:
    """Write what a profile has besides its name."""
    lines = ["egress:", *(f"  - {{{rule}, why: A test}}" for rule in rules)]
    if secret:
        lines += ["secrets:", f"  - {{{secret}, why: A test}}"]
    return "\n".join([*lines, SOCKETS, *([more] if more else [])])


BODIES = {
    "no-egress": SOCKETS,
    "plain": body(FILES),
    "port": body("host: files.example.com, port: 8080"),
    "cidr": body("cidr: 203.0.113.0/24, port: 80"),
    "uninspected": body(FILES + ", inspect: none"),
    "private": body("host: private.example.com, port: 80, private: true"),
    "public": body("host: private.example.com, port: 80"),
    "methods": body(FILES + ", methods: [HEAD]"),
    "paths": body(FILES + ", paths: [/one]"),
    "narrow": body(FILES, more="limits: {egress: 64KiB}"),
    "dropped": "profile: dropped\nextends: plain\ndrop: {egress: ['files.example.com:80']}\n"
    "why: A test.\n",
    "secret": body(FILES, secret=SHOWN),
    "other-secret": body(
        FILES, secret=SHOWN.replace("token", "other") + ", env: STOCKADE_SECRET_TOKEN"
    ),
    "other-header": body(FILES, secret=SHOWN.replace("X-Token", "X-Other")),
    "other-host": body(
        FILES, "host: four.example.com, port: 80", secret=SHOWN.replace("files", "four")
    ),
    "other-env": body(FILES, secret=SHOWN + ", env: MY_TOKEN"),
    "no-secret": "profile: no-secret\nextends: secret\ndrop: {secrets: [token]}\nwhy: A test.\n",
}
URL = "http://files.example.com/"


@pytest.fixture(scope="module")
def daemon(there: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("keys")
    values = {"token": VALUE, "other": OTHER_VALUE}
    for name, value in values.items():
        (folder / name).write_text(value + "\n")
        (folder / name).chmod(0o600)
    config = there.config(
        **with_profiles(folder / "profiles", **BODIES),
        secrets={name: {"file": str(folder / name)} for name in values},
    )
    with running_daemon(network=there.island, config=config) as running:
        yield running


def curl(daemon: Daemon, profile: str, *arguments: str) -> FinishedCall:
    return daemon.client.run(["curl", "-sS", "-f", "-m", "20", *arguments], profile=profile)


def reached(there: World, call: FinishedCall, name: str = "files.example.com") -> None:
    """See that the canary of a name came back."""
    shown = (call.outcome, call.stderr, call.denials, call.flows)
    assert call.stdout == f"canary {there.token} of {name}\n".encode(), shown
    assert call.ok, shown


def not_reached(there: World, call: FinishedCall) -> None:
    """See that the program ran, and got nothing."""
    assert isinstance(call.outcome, Exited), call.outcome
    assert not call.ok
    assert there.token not in call.stdout.decode()


@pytest.mark.key("egress.host", "drop.egress")
def test_a_host_is_reached(daemon: Daemon, there: World) -> None:
    reached(there, curl(daemon, "plain", URL))
    for profile in ("no-egress", "dropped", "public"):
        not_reached(there, curl(daemon, profile, URL))


@pytest.mark.key("egress.port")
def test_a_port_is_reached(daemon: Daemon, there: World) -> None:
    reached(there, curl(daemon, "port", "http://files.example.com:8080/"), "files.example.com:8080")
    not_reached(there, curl(daemon, "plain", "http://files.example.com:8080/"))
    not_reached(there, curl(daemon, "port", URL))


@pytest.mark.key("egress.cidr")
def test_a_network_is_reached(daemon: Daemon, there: World) -> None:
    address = places.SHARED[0]
    reached(there, curl(daemon, "cidr", f"http://{address}/"), address)
    not_reached(there, curl(daemon, "plain", f"http://{address}/"))
    not_reached(there, curl(daemon, "cidr", URL))


@pytest.mark.key("egress.inspect")
def test_what_is_not_inspected_may_ask_for_another(daemon: Daemon, there: World) -> None:
    other = ("-H", "Host: evil.example.com", URL)
    reached(there, curl(daemon, "uninspected", *other), "evil.example.com")
    not_reached(there, curl(daemon, "plain", *other))


@pytest.mark.key("egress.private")
def test_a_name_of_a_private_address(daemon: Daemon, there: World) -> None:
    url = "http://private.example.com/"
    reached(there, curl(daemon, "private", url), "private")
    not_reached(there, curl(daemon, "public", url))


@pytest.mark.key("egress.methods")
def test_only_some_methods(daemon: Daemon, there: World) -> None:
    assert curl(daemon, "methods", "--head", URL).ok
    not_reached(there, curl(daemon, "methods", URL))


@pytest.mark.key("egress.paths")
def test_only_some_paths(daemon: Daemon, there: World) -> None:
    reached(there, curl(daemon, "paths", URL + "one"))
    not_reached(there, curl(daemon, "paths", URL + "two"))


@pytest.mark.key("limits.egress")
def test_a_budget_ends(daemon: Daemon, there: World) -> None:
    url = "http://files.example.com/big?1000000"
    assert len(curl(daemon, "plain", url).stdout) == 1_000_000
    call = curl(daemon, "narrow", url)
    assert not call.ok
    assert len(call.stdout) < 64 * 1024
    assert {flow.verdict.value for flow in call.flows} == {"budget"}
    assert [(d.wall.value, d.name, d.allowed) for d in call.denials] == [("limit", "egress", 65536)]
    assert not isinstance(call.outcome, LimitExceeded)


@pytest.mark.key("secrets.name", "secrets.header", "secrets.host", "secrets.env", "drop.secrets")
def test_a_secret_goes_where_it_belongs(daemon: Daemon, there: World) -> None:
    def sent(profile: str, variable: str = "STOCKADE_SECRET_TOKEN") -> str:
        mark = there.mark()
        script = f'curl -sS -m 20 -H "X-Token: ${variable}" {URL}'
        daemon.client.run(["sh", "-c", script], profile=profile)
        headers = [line["headers"] for line in there.settled(mark, "request")]
        return headers[0].get("x-token", "") if headers else "nothing was sent"

    assert sent("secret") == VALUE
    assert sent("other-secret") == OTHER_VALUE
    assert sent("other-header") == "nothing was sent"
    assert sent("other-host") == "nothing was sent"
    assert sent("other-env") == ""
    assert sent("other-env", "MY_TOKEN") == VALUE
    assert sent("no-secret") == ""


@pytest.mark.key("egress.why", "secrets.why")
@pytest.mark.parametrize("name", ["plain", "secret"])
def test_what_opens_something_needs_a_reason(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.yaml"
    text = f"profile: {name}\nextends: base\nwhy: For one test.\n{BODIES[name]}\n"
    path.write_text(text)
    ProfileSet.load([SHIPPED, tmp_path]).effective(name)
    first, _, last = text.rpartition(", why: A test")
    path.write_text(first + last)
    with pytest.raises(ProfileError, match="'why' is missing"):
        ProfileSet.load([SHIPPED, tmp_path]).effective(name)
