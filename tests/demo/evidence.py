"""What the record says about one call, read through the audit service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from supervisor.call import outcome
from supervisor.call.types import Json, Stream
from supervisor.client import FinishedCall, Record, Supervisor


class Fell(Exception):
    """A wall did not hold, or its record does not say so."""


def expect(condition: object, complaint: str) -> None:
    """Go on where `condition` holds.

    Raises:
        Fell: it does not.
    """
    if not condition:
        raise Fell(complaint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The account of a call; only `call` comes from what the client saw while it ran."""

    call: FinishedCall
    record: Record
    stdout: bytes
    stderr: bytes
    lines: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, client: Supervisor, call: FinishedCall) -> Evidence:
        """Fetch the record of `call` and check it against what the client was told.

        Raises:
            Fell: the two differ.
        """
        evidence = cls(
            call=call,
            record=client.record(call.call_id),
            stdout=b"".join(client.read_output(call.call_id, Stream.STDOUT)),
            stderr=b"".join(client.read_output(call.call_id, Stream.STDERR)),
        )
        finished = evidence.record.call.finished
        expect(finished is not None, "the record has no outcome")
        expect(finished == call.finished, "the record's outcome is not what the client was told")
        kinds = [entry.kind for entry in evidence.record.entries]
        expect(kinds.count("intent") == 1 and kinds[0] == "intent", f"no INTENT first: {kinds}")
        expect(kinds.count("outcome") == 1 and kinds[-1] == "outcome", f"no OUTCOME last: {kinds}")
        leaf = evidence.record.entries[-1].leaf.sha256
        expect(leaf == call.record, "the OUTCOME entry is not the one that the client was told of")
        return evidence

    @property
    def outcome(self) -> outcome.Outcome:
        """How the call ended, says the record."""
        finished = self.record.call.finished
        expect(finished is not None, "the record has no outcome")
        assert finished is not None
        return finished.outcome

    def say(self, line: str) -> None:
        """Note what the record says, for the report."""
        self.lines.append(line)

    def denials(self, name: str) -> Iterator[dict[str, Json]]:
        """Give the bodies of the `denied` entries about `name`."""
        for entry in self.record.entries:
            body = entry.body().get("body")
            if entry.kind == "denied" and isinstance(body, dict) and body.get("name") == name:
                yield body

    def denied_syscall(self, name: str, *arguments: int) -> None:
        """Find the denial of a system call whose first arguments are `arguments`.

        Raises:
            Fell: the record has none.
        """
        found = [
            body
            for body in self.denials(name)
            if body.get("wall") == "syscall"
            and _numbers(body.get("arguments"))[: len(arguments)] == list(arguments)
        ]
        expect(found, f"the record has no denial of {name}{arguments}")
        numbers = ", ".join(hex(n) for n in _numbers(found[0].get("arguments"))[:3])
        shown = found[0].get("detail") or f"{name}({numbers}, …)"
        self.say(f"denied {shown} × {found[0].get('count', 1)}")

    def denied_limit(self, name: str) -> None:
        """Find the denial of a limit, with what was used and what is allowed.

        Raises:
            Fell: the record has none.
        """
        found = [body for body in self.denials(name) if body.get("wall") == "limit"]
        expect(found, f"the record has no denial of the limit {name}")
        used, allowed = found[-1].get("used"), found[-1].get("allowed")
        expect(isinstance(allowed, int) and allowed > 0, f"no value of the limit {name}")
        self.say(f"limit {name}: {used} used, {allowed} allowed × {found[-1].get('count', 1)}")

    def denied_network(self) -> None:
        """Find the denial of a way out.

        Raises:
            Fell: the record has none.
        """
        bodies = [e.body().get("body") for e in self.record.entries if e.kind == "denied"]
        found = [b for b in bodies if isinstance(b, dict) and b.get("wall") == "network"]
        expect(found, "the record has no denial of a way out")
        first = found[0]
        self.say(f"{first.get('name')}({first.get('detail')}) × {first.get('count', 1)}")

    def exited(self, *codes: int) -> None:
        """Expect that the program ended by itself with one of `codes`.

        Raises:
            Fell: it did not.
        """
        how = self.outcome
        expect(
            isinstance(how, outcome.Exited) and how.code in codes,
            f"expected exit {codes}, the record says {how}",
        )
        self.say(f"exit {how.code}" if isinstance(how, outcome.Exited) else "")

    def last_error(self) -> str:
        """Give the last line of recorded standard error."""
        return (self.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]


def _numbers(value: Json | None) -> list[int]:
    return [n for n in value if isinstance(n, int)] if isinstance(value, list) else []
