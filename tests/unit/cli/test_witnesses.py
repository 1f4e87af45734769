"""What is given to another Stockade, and what is made of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.api.witness_config import ClientTls, WitnessEntry
from supervisor.audit.checkpoints import read_checkpoint
from supervisor.audit.witness import Contradicted, WitnessFailed
from supervisor.cli import witnesses
from supervisor.cli.witnesses import StockadeWitness, witness_of
from supervisor.client import rpc
from supervisor.client.address import Tls
from supervisor.v1 import audit_pb2
from tests.support.records import begin, make_finished, opened
from tests.unit.client.fake_daemon import Abort, FakeDaemon


@pytest.fixture
def heads(tmp_path: Path) -> list[bytes]:
    async def main() -> list[bytes]:
        found = []
        async with opened(tmp_path) as store:
            for name in ("one", "two"):
                await (await begin(store, name)).finish(make_finished())
                found.append(store._tree.signed())
        return found

    return asyncio.run(main())


def refusing(reason: str, **metadata: str) -> Callable[[Any], Any]:
    def refuse(_: Any) -> Any:
        raise Abort("FAILED_PRECONDITION", reason, **metadata)

    return refuse


def taking(_: Any) -> audit_pb2.AddCheckpointResponse:
    return audit_pb2.AddCheckpointResponse()


def test_it_goes_on_from_what_the_witness_has(daemon: FakeDaemon, heads: list[bytes]) -> None:
    sizes = [read_checkpoint(head).size for head in heads]
    witness = StockadeWitness(daemon.address)
    witness.prove_with(lambda old, new: [bytes([old, new])])
    daemon.play("AddCheckpoint", refusing("HEAD_CONFLICT", size=str(sizes[0])), taking)
    witness.take(heads[1])
    first, second = daemon.asked("AddCheckpoint")
    assert (first.old_size, list(first.proof)) == (0, [])
    assert (second.old_size, list(second.proof)) == (sizes[0], [bytes(sizes)])
    witness.take(heads[1])
    assert daemon.asked("AddCheckpoint")[-1].old_size == sizes[1]


def test_a_log_that_is_shorter_than_the_witness_knows(
    daemon: FakeDaemon, heads: list[bytes]
) -> None:
    daemon.play("AddCheckpoint", refusing("HEAD_CONFLICT", size="1000"))
    with pytest.raises(Contradicted, match=r"1000 entries.* cut back") as caught:
        StockadeWitness(daemon.address).take(heads[0])
    assert caught.value.size == 1000


@pytest.mark.parametrize("reason", ["HEAD_REWRITTEN", "LOG_NOT_WITNESSED"])
def test_what_it_says_is_passed_on(reason: str, daemon: FakeDaemon, heads: list[bytes]) -> None:
    daemon.play("AddCheckpoint", refusing(reason))
    with pytest.raises(WitnessFailed, match="no") as caught:
        StockadeWitness(daemon.address).take(heads[0])
    assert isinstance(caught.value, Contradicted) is (reason == "HEAD_REWRITTEN")


def test_one_over_tcp_is_reached_with_its_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    tls = ClientTls(ca="/ca.pem", cert="/cert.pem", key="/key.pem")
    entry = WitnessEntry(stockade="log.example.com:7443", tls=tls)
    witness = witness_of(entry)
    assert isinstance(witness, StockadeWitness)
    wanted = Tls(ca=Path("/ca.pem"), certificate=Path("/cert.pem"), key=Path("/key.pem"))
    assert (witness.address.target, witness.address.tls) == ("log.example.com:7443", wanted)
    given: list[tuple[str, object]] = []
    monkeypatch.setattr(rpc, "credentials", lambda tls: tls)
    monkeypatch.setattr(
        grpc, "secure_channel", lambda target, tls, options: given.append((target, tls))
    )
    witnesses._channel(witness.address)
    assert given == [("log.example.com:7443", wanted)]
