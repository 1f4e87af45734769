"""Another Stockade as a witness of this one's log: it is given the heads over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from supervisor.audit.checkpoints import read_checkpoint
from supervisor.audit.witness import Contradicted, Witness, WitnessFailed
from supervisor.audit.witnessed import CONFLICT, REWRITTEN, SIZE_KEY
from supervisor.client import rpc
from supervisor.client.address import Address, Tls, channel_options, resolve
from supervisor.client.status import error_of
from supervisor.v1 import audit_pb2, audit_pb2_grpc

if TYPE_CHECKING:
    from supervisor.api.witness_config import WitnessEntry
    from supervisor.errors import StockadeError

SUBMIT_S = 20.0


class StockadeWitness:
    """A daemon at `address` that keeps our heads, by `witness_for:` of its configuration."""

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        self.address = resolve(address, tls)
        self._prove: Callable[[int, int], Sequence[bytes]] | None = None
        self._size = 0

    @property
    def name(self) -> str:
        """Give its address."""
        return f"stockade {self.address}"

    def prove_with(self, prove: Callable[[int, int], Sequence[bytes]]) -> None:
        """Take what makes consistency proofs of our log."""
        self._prove = prove

    def take(self, head: bytes) -> None:
        """Give it a head, with the proof that it begins with the one that it has.

        Raises:
            WitnessFailed: it does not take it.
        """
        error = self._submit(head)
        if error is not None and error.reason == CONFLICT:
            self._size = int(error.metadata.get(SIZE_KEY, "0"))
            error = self._submit(head)
        if error is not None and error.reason == REWRITTEN:
            raise Contradicted(error.message, size=self._size, shorter=False)
        if error is not None:
            raise WitnessFailed(f"{error.message} [{error.reason}]")
        self._size = read_checkpoint(head).size

    def _submit(self, head: bytes) -> StockadeError | None:
        size = read_checkpoint(head).size
        if size < self._size:
            raise Contradicted(
                f"it has a head over {self._size} entries, and here are {size}: it was cut back",
                size=self._size,
                shorter=True,
            )
        proof: Sequence[bytes] = ()
        if self._prove is not None and 0 < self._size < size:
            proof = self._prove(self._size, size)
        request = audit_pb2.AddCheckpointRequest(checkpoint=head, old_size=self._size, proof=proof)
        with _channel(self.address) as channel:
            stub = audit_pb2_grpc.AuditServiceStub(channel)  # type: ignore[no-untyped-call]
            try:
                stub.AddCheckpoint(request, timeout=SUBMIT_S)
            except grpc.RpcError as error:
                metadata: Any = error.trailing_metadata() or ()
                return error_of(error.code().name, error.details() or "", metadata)
        return None


def _channel(address: Address) -> grpc.Channel:
    options = channel_options()
    if address.tls is None:
        return grpc.insecure_channel(address.target, options=options)
    return grpc.secure_channel(address.target, rpc.credentials(address.tls), options=options)


def witness_of(entry: WitnessEntry) -> Witness:
    """Give a witness of our log.

    Raises:
        InvalidRequest: the address of another Stockade, or its certificates, cannot be used.
    """
    if entry.witness is not None:
        return entry.witness
    tls, given = None, entry.tls
    if given is not None:
        tls = Tls(ca=Path(given.ca), certificate=Path(given.cert), key=Path(given.key))
    return StockadeWitness(entry.stockade or "", tls)
