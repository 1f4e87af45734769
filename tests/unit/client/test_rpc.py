"""What both clients share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from supervisor.call.types import Correlation
from supervisor.client import Retry, Supervisor, rpc
from supervisor.client.address import Tls
from supervisor.errors import InvalidRequest, Unreachable
from tests.unit.api.certificates import Authority, Pair
from tests.unit.client.test_address import write


def test_the_call_wins_over_the_client() -> None:
    given = Correlation(agent="a", session="s", workflow="w", traceparent="t")
    found = rpc.correlation(given, agent="b", session="", workflow="", traceparent="u")
    assert found == Correlation(agent="b", session="s", workflow="w", traceparent="u")


def test_credentials_need_their_files(tmp_path: Path) -> None:
    tls = Tls(ca=tmp_path / "ca", certificate=tmp_path / "c", key=tmp_path / "k")
    with pytest.raises(InvalidRequest) as caught:
        rpc.credentials(tls)
    assert caught.value.reason == "TLS_FILE_UNREADABLE"


@contextlib.contextmanager
def listening(authority: Authority, pair: Pair) -> Iterator[str]:
    """Give the address of somebody who shows `pair`."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(pair.key, pair.cert)], root_certificates=authority.cert, require_client_auth=True
        ),
    )
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_failed_handshake_is_not_tried_again(tmp_path: Path, wrong: str) -> None:
    authority = Authority()
    theirs = authority.issue("daemon", "127.0.0.1" if wrong == "authority" else "10.0.0.1")
    trusted = Authority() if wrong == "authority" else authority
    tls = write(tmp_path, authority.issue("client"), trusted.cert)
    patient = Retry(attempts_max=1000, delay_s=60, delay_max_s=60)
    with (
        listening(authority, theirs) as address,
        Supervisor(address, tls=tls, retry=patient, timeout=600) as client,
    ):
        for use in (lambda: client.get("c"), lambda: client.run(["x"], profile="p")):
            with pytest.raises(Unreachable) as caught:
                use()
            assert caught.value.reason == "TLS_HANDSHAKE"


def test_a_pair_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    authority = Authority()
    pair = Pair(cert=authority.issue("one").cert, key=authority.issue("two").key)
    tls = write(tmp_path, pair, authority.cert)
    with pytest.raises(InvalidRequest) as caught:
        Supervisor("127.0.0.1:1", tls=tls)
    assert caught.value.reason == "TLS_UNUSABLE"
