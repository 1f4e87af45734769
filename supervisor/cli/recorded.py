"""What a recorded call was asked for, put together again from its record, and what of that is not
on record.

A long request and the contents of files are blobs: who may not read those cannot ask for the same
again. What was redacted before it was written is nowhere any more. Pure, but for `read`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from supervisor.call import outcome
from supervisor.call.types import Digest, Stream, Terminal, untext
from supervisor.cli.erase import told_erased
from supervisor.cli.output import moment
from supervisor.cli.playback import terminal_of
from supervisor.client.request import File, Stored
from supervisor.errors import AuditCorrupt, CallStateError, InvalidRequest, NotFound

if TYPE_CHECKING:
    from supervisor.call.events import Finished
    from supervisor.client import Call, Record

REDACTED = b"[REDACTED:"
STDIN = "standard input"
NO_ARGUMENTS: Mapping[int, bytes] = {}
Read = Callable[[Digest], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a call was asked for. `missing` says what of it is not on record, and why: by its name,
    as "argv[1]", "variable HOME", "file in.csv" or "standard input"."""

    argv: tuple[bytes, ...]
    env: Mapping[str, str | bytes]
    cwd: bytes
    files: Mapping[str, File]
    outputs: tuple[str, ...]
    timeout_s: float | None
    terminal: Terminal | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    def given(
        self,
        *,
        env: Mapping[str, str],
        files: Mapping[str, File],
        stdin: bool,
        arguments: Mapping[int, bytes] = NO_ARGUMENTS,
    ) -> tuple[Asked, list[str]]:
        """Take what is given anew instead of what is on record; say what that is.

        Raises:
            InvalidRequest: `ARGUMENT_NOT_THERE`.
        """
        argv = list(self.argv)
        for place, value in arguments.items():
            if place >= len(argv):
                raise InvalidRequest(
                    "ARGUMENT_NOT_THERE",
                    f"--arg {place}: the recorded call has argv[0] to argv[{len(argv) - 1}]",
                )
            argv[place] = value
        names = [argument(place) for place in arguments]
        names += [*(variable(name) for name in env), *(file_name(path) for path in files)]
        names += [STDIN] if stdin else []
        missing = {name: why for name, why in self.missing.items() if name not in names}
        changed = replace(
            self,
            argv=tuple(argv),
            env={**self.env, **env},
            files={**self.files, **files},
            missing=missing,
        )
        return changed, names

    def require(self, call_id: str) -> None:
        """Refuse where something is missing.

        Raises:
            NotFound: `INPUT_NOT_RECORDED`.
        """
        if self.missing:
            raise not_recorded(call_id, self.missing)


def argument(place: int) -> str:
    """Give what an argument is called where it is missing."""
    return f"argv[{place}]"


def variable(name: str) -> str:
    """Give what a variable is called where it is missing."""
    return f"variable {name}"


def file_name(path: str) -> str:
    """Give what a file is called where it is missing."""
    return f"file {path}"


def not_recorded(call_id: str, missing: Mapping[str, str]) -> NotFound:
    """Give the error for what is missing."""
    return NotFound(
        "INPUT_NOT_RECORDED",
        f"call {call_id} cannot be run again as it was: "
        + "; ".join(f"{name} {why}" for name, why in missing.items()),
        hint="give it anew: --arg N=VALUE or N@FILE for argv[N], -e NAME=VALUE, -f HOST:SANDBOX, "
        "-i FILE; -i recorded takes what there is of standard input, and -i none is an empty one",
        metadata={"missing": ", ".join(missing)},
    )


def removed_when(call: Call) -> str:
    """Say that retention removed what a call left; "" where it did not."""
    if call.removed is None:
        return ""
    return f"removed on {moment(call.removed.time_ns)} by retention ({call.removed.why})"


def read(record: Record, read_blob: Read) -> Asked:
    """Read what a call was asked for.

    Raises:
        CallStateError: `CALL_NOT_CLOSED`.
        NotFound: `INPUT_NOT_RECORDED`, where the request itself is not to be had;
            `CONTENT_ERASED`.
        AuditCorrupt: `RECORD_SHORT`.
    """
    finished = record.call.finished
    if finished is None:
        raise CallStateError(
            "CALL_NOT_CLOSED",
            f"call {record.call.call_id} has not ended",
            hint="wait for it: stockade attach",
        )
    if record.call.erased is not None:
        told = told_erased(record.call.erased)
        raise NotFound("CONTENT_ERASED", f"call {record.call.call_id}: content {told}")
    request = _request(record, read_blob)
    argv = tuple(untext(argument) for argument in request["argv"])
    env = {str(name): untext(value) for name, value in request["env"].items()}
    cwd = untext(request["working_directory"])
    files = {
        os.fsdecode(untext(file["path"])): Stored(digest=_digest(file), mode=int(file["mode"]))
        for file in request["files"]
    }
    missing = {argument(place): value for place, value in enumerate(argv)}
    missing |= {variable(name): value for name, value in env.items()}
    missing |= {file_name(path): os.fsencode(path) for path in files}
    missing |= {"the working directory": cwd}
    redacted = {n: "is redacted on record" for n, value in missing.items() if REDACTED in value}
    why = _stdin_missing(request, finished)
    return Asked(
        argv=argv,
        env=env,
        cwd=cwd,
        files=files,
        outputs=tuple(map(str, request["outputs"])),
        timeout_s=request["timeout_s"],
        terminal=terminal_of(record),
        missing={**redacted, **({STDIN: why} if why else {})},
    )


def files_given(record: Record, read_blob: Read) -> Mapping[str, Digest]:
    """Give the files that a call was given, by their paths, each by the digest that INTENT names.

    Raises:
        NotFound: `INPUT_NOT_RECORDED`, where the request itself is not to be had.
        AuditCorrupt: `RECORD_SHORT`.
    """
    files = _request(record, read_blob)["files"]
    return {os.fsdecode(untext(file["path"])): _digest(file) for file in files}


def _request(record: Record, read_blob: Read) -> Mapping[str, Any]:
    call_id = record.call.call_id
    first = record.entries[0] if record.entries else None
    if first is None or first.kind != "intent":
        raise AuditCorrupt("RECORD_SHORT", f"the record of call {call_id} does not begin with one")
    intent = _map(first.body()["body"])
    if "request" in intent:
        return _map(intent["request"])
    try:
        return _map(json.loads(read_blob(_digest(intent["request_blob"]))))
    except NotFound as error:
        why = "is too long for an entry, and only its caller may read it whole"
        if record.call.removed is not None:
            why = f"was {removed_when(record.call)}"
        raise not_recorded(call_id, {"the request": why}) from error


def _stdin_missing(request: Mapping[str, Any], finished: Finished) -> str:
    """Say what of standard input is not on record; "" where all is."""
    announced = _digest(request["stdin"])
    summary = next((one for one in finished.streams if one.stream is Stream.STDIN), None)
    taken = summary.digest if summary else Digest.of(b"")
    if summary is not None and summary.truncated:
        begin, end = summary.missing
        return (
            f"is on record with {summary.stored_bytes} of {taken.size_bytes} bytes: "
            f"{begin} to {end} are missing"
        )
    if taken.size_bytes < announced.size_bytes:
        return f"is on record as far as it was handed over: {taken.size_bytes} of " + (
            f"{announced.size_bytes} bytes"
        )
    if request["stdin_open"] and isinstance(finished.outcome, outcome.Interrupted):
        return "may have had more: the daemon died while it was open"
    return ""


def _digest(value: Mapping[str, Any]) -> Digest:
    return Digest(sha256=str(value["sha256"]), size_bytes=int(value["size_bytes"]))


def _map(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise AuditCorrupt("RECORD_SHORT", "an entry has no object where one belongs")
    return value
