"""Honest work passes: programs as they are, each connection on record, and no denial."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.client import FinishedCall
from tests.egress.arena import PROGRAMS, Trial, tried
from tests.egress.servers import places
from tests.egress.servers.web import blocks
from tests.support.daemon import Daemon
from tests.support.postgres import DATABASE, USER, postgres, programs
from tests.support.world import World

LARGE_BYTES = 500_000_000
CONNECTIONS = 200
UPLOAD_BYTES = 50_000_000
SLOW_BYTES = 5_000_000
PAUSE_S, RECEIVE_BUFFER = "0.01", "32768"
HTTPS = "https://files.example.com"
HTTP = "http://files.example.com"


@pytest.fixture(scope="module")
def database(there: World) -> Iterator[None]:
    with postgres(there.far, places.POSTGRES):
        yield


def work(daemon: Daemon, there: World, *argv: str) -> Trial:
    """Run honest work that trusts the world's authority; it has to succeed."""
    trusted = dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"), "/work/ca.pem")
    files = {"ca.pem": there.ca.read_bytes()}
    files |= {name: (PROGRAMS / name).read_bytes() for name in argv if name.endswith(".py")}
    return passes(daemon.client.run(argv, profile="working", files=files, env=trusted), daemon)


def passes(call: FinishedCall, daemon: Daemon) -> Trial:
    """See that a call has succeeded and was denied nothing."""
    trial = tried(daemon, call)
    assert trial.call.ok, (trial.call.outcome, trial.call.stderr[-2000:], trial.denied)
    assert trial.denied == ()
    assert trial.lost == ()
    return trial


def only(trial: Trial, **wanted: Any) -> list[dict[str, Any]]:
    """Give the flows of a call, all of which have to be as wanted, by port."""
    assert trial.flows
    for flow in trial.flows:
        assert {key: flow[key] for key in wanted} == wanted
        # "stopped" where the program was gone before the far side had closed, too.
        assert flow["verdict"] in ("closed", "stopped"), flow
        assert flow["address"] in (*places.SHARED, *places.SOCKETS, *places.OTHER, places.POSTGRES)
        assert flow["pid"] > 0
        assert flow["program"]
    return sorted(trial.flows, key=lambda flow: flow["port"])


def canary(there: World, name: str) -> str:
    return f"canary {there.token} of {name}\n"


@pytest.mark.parametrize(
    ("url", "name", "port"),
    [
        ("https://api.github.com/repos", "api.github.com", 443),
        ("https://API.GitHub.com./repos", "api.github.com", 443),
        (f"{HTTP}/", "files.example.com", 80),
        ("https://a.b.good.example.com/", "a.b.good.example.com", 443),
        ("http://four.example.com/", "four.example.com", 80),
        ("http://six.example.com/", "six.example.com", 80),
    ],
)
def test_curl(daemon: Daemon, there: World, url: str, name: str, port: int) -> None:
    for family in ("-4", "-6"):
        trial = work(daemon, there, "curl", "-sS", family, url)
        assert trial.call.stdout.decode().lower() == canary(there, name).replace(
            name, url.split("/")[2].lower()
        )
        rule = f"*.good.example.com:{port}" if "good" in name else f"{name}:{port}"
        (flow,) = only(trial, name=name, port=port, rule=rule)
        assert flow["sent"] > 0
        assert flow["received"] > len(trial.call.stdout)


@pytest.mark.parametrize("program", ["with_urllib.py", "with_httpx.py"])
def test_python_clients(daemon: Daemon, there: World, program: str) -> None:
    urls = [f"{HTTP}/", f"{HTTPS}/"]
    trial = work(daemon, there, "python3", program, *urls)
    times = 3 if "httpx" in program else 1
    assert trial.call.stdout.decode() == canary(there, "files.example.com") * times * 2
    assert [flow["port"] for flow in only(trial, name="files.example.com")] == [80, 443]


@pytest.mark.parametrize("program", ["curl", "with_urllib.py", "with_httpx.py"])
def test_tls_that_ends_at_the_broker(daemon: Daemon, there: World, program: str) -> None:
    """Programs trust what the sandbox trusts, and are told nothing of it."""
    url = "https://api.github.com/repos"
    argv = ["curl", "-sS", url] if program == "curl" else ["python3", program, url]
    files = {} if program == "curl" else {program: PROGRAMS / program}
    mark = there.mark()
    call = daemon.client.run(argv, profile="terminating", files=files)
    trial = passes(call, daemon)
    assert set(call.stdout.decode().splitlines(True)) == {canary(there, "api.github.com")}
    only(trial, name="api.github.com", port=443, rule="api.github.com:443")
    assert {line["sni"] for line in there.settled(mark, "request")} == {"api.github.com"}


def test_git_clone(daemon: Daemon, there: World) -> None:
    script = "git clone -q https://git.example.com/git/tools.git && cat tools/tool.txt"
    trial = work(daemon, there, "sh", "-c", script)
    assert trial.call.stdout == b"a tool\n"
    only(trial, name="git.example.com", port=443, rule="git.example.com:443")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("base", "count"), [(HTTPS, LARGE_BYTES), (HTTP, LARGE_BYTES // 5)])
def test_large_download(daemon: Daemon, there: World, base: str, count: int) -> None:
    trial = work(daemon, there, "python3", "download.py", f"{base}/big?{count}")
    digest = hashlib.blake2b()
    for block in blocks(count):
        digest.update(block)
    assert trial.call.stdout.decode().split() == [str(count), digest.hexdigest()]
    (flow,) = only(trial, name="files.example.com")
    assert count < flow["received"] < count * 1.01


def test_postgresql_on_a_network(daemon: Daemon, there: World, database: None) -> None:
    query = "select sum(n), md5(string_agg(n::text, ',')) from generate_series(1, 300000) n"
    rows = "copy (select * from generate_series(1, 300000)) to stdout"
    command = [str(programs() / "psql"), "-h", places.POSTGRES, "-U", USER, "-At"]
    trial = work(daemon, there, *command, "-c", query, "-c", rows, DATABASE)
    lines = trial.call.stdout.decode().splitlines()
    assert lines[0].startswith("45000150000|")
    assert lines[1:] == [str(n) for n in range(1, 300_001)]
    rule = f"{places.POSTGRES_NETWORK}:5432"
    only(trial, name=places.POSTGRES, address=places.POSTGRES, port=5432, rule=rule)


@pytest.mark.parametrize("address", places.OTHER)
def test_an_address_by_rule(daemon: Daemon, there: World, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    trial = work(daemon, there, "curl", "-sS", f"http://{host}/")
    assert trial.call.stdout.decode() == canary(there, host)
    only(trial, name=address, address=address, port=80)


def test_websockets(daemon: Daemon, there: World) -> None:
    urls = ["ws://ws.example.com/", "wss://ws.example.com/"]
    trial = work(daemon, there, "python3", "with_websockets.py", *urls)
    assert trial.call.stdout.decode().split() == ["1", "125", "126", "70000", "1048576"] * 2
    flows = only(trial, name="ws.example.com", rule="ws.example.com:80,443")
    assert [flow["port"] for flow in flows] == [80, 443]


def test_many_connections_at_once(daemon: Daemon, there: World) -> None:
    command = ["many.py", "files.example.com", str(places.ECHO), str(CONNECTIONS)]
    trial = work(daemon, there, "python3", *command)
    assert trial.call.stdout.decode().split() == [str(CONNECTIONS)]
    flows = only(trial, name="files.example.com", port=places.ECHO)
    assert len(flows) == CONNECTIONS
    assert all(flow["sent"] == flow["received"] > 0 for flow in flows)


@pytest.mark.parametrize("base", [HTTPS, HTTP])
def test_upload(daemon: Daemon, there: World, base: str) -> None:
    trial = work(daemon, there, "python3", "upload.py", f"{base}/upload", str(UPLOAD_BYTES))
    sent, *arrived = trial.call.stdout.decode().splitlines()
    assert arrived == [sent, sent]
    flows = only(trial, name="files.example.com")
    assert len(flows) == 2
    assert all(flow["sent"] > UPLOAD_BYTES for flow in flows)


def test_a_slow_reader_and_a_slow_server(daemon: Daemon, there: World) -> None:
    for path, more in (("big", (PAUSE_S, RECEIVE_BUFFER)), ("drip", ())):
        count = SLOW_BYTES if path == "big" else SLOW_BYTES // 100
        trial = work(daemon, there, "python3", "download.py", f"{HTTP}/{path}?{count}", *more)
        digest = hashlib.blake2b(b"".join(blocks(count))).hexdigest()
        assert trial.call.stdout.decode().split() == [str(count), digest]
        only(trial, name="files.example.com")


@pytest.mark.parametrize("count", [0, 100, 5_000_000])
def test_each_direction_ends_by_itself(daemon: Daemon, there: World, count: int) -> None:
    """The program's peer is who it asked for: a made-up address, that of its name."""
    command = ["half_close.py", "files.example.com", str(places.ECHO), str(count)]
    trial = work(daemon, there, "python3", *command)
    got, asked, *_ = trial.call.stdout.decode().split()
    assert (got, asked) == (str(count), "True")
    (flow,) = only(trial, name="files.example.com", port=places.ECHO)
    assert (flow["sent"], flow["received"]) == (count, count)


@pytest.mark.parametrize("count", [1, 3_000_000])
def test_what_was_sent_last_arrives_though_its_program_has_ended(
    daemon: Daemon, there: World, count: int
) -> None:
    mark = there.mark()
    trial = work(
        daemon, there, "/usr/bin/python3", "send_and_go.py", "files.example.com", "9", str(count)
    )
    (flow,) = trial.flows
    assert (flow["sent"], flow["verdict"]) == (count, "closed")
    assert sum(line["count"] for line in there.settled(mark, "bytes")) == count


def test_a_name_keeps_its_address(daemon: Daemon, there: World) -> None:
    script = "for n in 1 2 3; do getent ahosts x.good.example.com; done | sort | uniq -c"
    counts = [
        line.split()[0]
        for line in work(daemon, there, "sh", "-c", script).call.stdout.decode().splitlines()
    ]
    assert len(set(counts)) == 1
    assert int(counts[0]) % 3 == 0
