"""The keys of calls: each wrapped to the configured `age` recipients, in a file of its own.

    keys/CALL    what opens the content of CALL, for who has an identity of a recipient

Deleting the file erases the content of the call and leaves the log as it is. Retention deletes it,
too, with what it opens. A live call's key is in memory, and for a while after its end, so that its
caller can fetch what it left behind. After that the daemon opens content only where the
configuration gives it an identity.

The key of an upload is in memory alone, for an hour after it began: a call that is given
the upload keeps a copy under its own key.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from supervisor.audit.blobs import Fail, record_full, write_all
from supervisor.audit.directory import KEYS_NAME
from supervisor.audit.entry import CALL_ID
from supervisor.audit.sealing import ContentKey, unwrapped
from supervisor.audit.shortage import open_to_read, shortage
from supervisor.audit.space import NO_SPACE, sync_directory
from supervisor.call.safe import safe
from supervisor.errors import AuditCorrupt, CallStateError, NotFound, StockadeError

KEY_HELD_S = 600.0
UPLOAD_HELD_S = 3600.0
HELD_MAX = 4096
"""Keys of calls that have ended, and of uploads, that are held; the oldest go first."""

KEY_FILE_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """That the content of a call was erased: by whom, when, and why."""

    by: str
    time_ns: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """That the contents of a call, or a file of them, are gone: `name` is the call's id or the
    file's, `why` is "age" or "size"."""

    name: str
    time_ns: int
    why: str

    def told(self) -> str:
        """Say when and why."""
        moment = datetime.datetime.fromtimestamp(self.time_ns // 10**9, datetime.UTC)
        return f"removed on {moment:%Y-%m-%d %H:%M:%S} UTC by retention ({self.why})"


class Fates(Protocol):
    """Who knows what became of the contents of calls: the index."""

    def erasure(self, call_id: str) -> Erasure | None:
        """Give by whom and why they were erased; None where they were not."""
        ...

    def removal(self, name: str) -> Removal | None:
        """Give when and why retention removed them; None where it did not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """To whom the keys of new calls are wrapped, none for no encryption; and the identities that
    the daemon itself reads with."""

    recipients: tuple[str, ...] = ()
    identities: tuple[str, ...] = field(default=(), repr=False)


PLAIN = Encryption()


@dataclass(slots=True)
class _Held:
    key: ContentKey
    until_s: float


class Vault:
    """The keys of one state directory. Methods may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        encryption: Encryption,
        *,
        fail: Fail,
        fates: Fates,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = directory / KEYS_NAME
        self.recipients = encryption.recipients
        self._identities = encryption.identities
        self._fail = fail
        self._fates = fates
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._live: dict[str, ContentKey] = {}
        self._held: collections.OrderedDict[str, _Held] = collections.OrderedDict()
        if self.recipients and not self.path.is_dir():
            self.path.mkdir(mode=0o700)
            sync_directory(directory)

    def erasure(self, call_id: str) -> Erasure | None:
        """Give by whom and why the content of a call was erased; None where it was not."""
        return self._fates.erasure(call_id)

    @property
    def locks(self) -> bool:
        """Say whether the content of new calls is encrypted."""
        return bool(self.recipients)

    def create(self, call_id: str) -> tuple[ContentKey, str]:
        """Make the key of a call, durable before it is given; and the SHA-256 of its file.

        Raises:
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        key = ContentKey.new(call_id)
        data = key.wrapped(self.recipients)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(self.path / call_id, flags, 0o600)
            try:
                write_all(fd, data)
                os.fdatasync(fd)
            finally:
                os.close(fd)
            sync_directory(self.path)
        except OSError as error:
            self.discard(call_id)
            if error.errno in NO_SPACE:
                raise record_full("the key of a call", error) from error
            raise (shortage("the key of a call", error) or self._fail("key", error)) from error
        return key, hashlib.sha256(data).hexdigest()

    def discard(self, call_id: str) -> None:
        """Remove the key of a call that did not begin, as far as the disk lets: nothing on record
        names it, so that one that stays opens nothing."""
        with contextlib.suppress(OSError):
            (self.path / call_id).unlink(missing_ok=True)

    def begin(self, key: ContentKey) -> None:
        """Hold the key of a call while the call lives."""
        with self._lock:
            self._live[key.key_id] = key

    def end(self, call_id: str) -> None:
        """Hold the key of a call that has ended for a while."""
        with self._lock:
            key = self._live.pop(call_id, None)
        if key is not None:
            self.hold(key, KEY_HELD_S)

    def hold(self, key: ContentKey, span_s: float) -> None:
        """Hold a key so long; and no longer than there is place for it."""
        with self._lock:
            self._held.pop(key.key_id, None)
            self._held[key.key_id] = _Held(key, self._clock_s() + span_s)
            self._tidy()

    def forget(self, key_id: str) -> None:
        """Hold a key no longer."""
        with self._lock:
            self._live.pop(key_id, None)
            self._held.pop(key_id, None)

    def opens(self, key_id: str) -> bool:
        """Say whether `key` would give the key, as far as can be told without reading it."""
        return self._in_memory(key_id) is not None or (bool(self._identities) and self.has(key_id))

    def key(self, key_id: str) -> ContentKey:
        """Give the key of a call or an upload. Reads the disk where it is not in memory.

        Raises:
            NotFound: `CONTENT_ERASED`, `CONTENT_REMOVED`.
            CallStateError: `CONTENT_LOCKED`, where the daemon has no identity for it.
            AuditCorrupt: `KEY_MISSING`, `KEY_DAMAGED`.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
        """
        held = self._in_memory(key_id)
        if held is not None:
            return held
        self._require_content(key_id)
        key = read_key(self.path, key_id, self._identities) if self._identities else None
        if key is None:
            raise content_locked(key_id)
        self.hold(key, KEY_HELD_S)
        try:
            self._require_content(key_id)  # whoever destroys it says so first, and then forgets it
        except NotFound:
            self.forget(key_id)
            raise
        return key

    def has(self, call_id: str) -> bool:
        """Say whether the key of a call is there."""
        return bool(CALL_ID.fullmatch(call_id)) and (self.path / call_id).is_file()

    def destroy(self, call_id: str) -> None:
        """Overwrite and delete the key of a call, durably; nothing where there is none.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
        """
        self.forget(call_id)
        path = self.path / call_id
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as error:
            raise (shortage("a key", error) or self._fail("key", error)) from error
        try:
            write_all(fd, secrets.token_bytes(os.fstat(fd).st_size))
            os.fdatasync(fd)
            path.unlink()
            sync_directory(self.path)
        except OSError as error:
            raise (shortage("a key", error) or self._fail("key", error)) from error
        finally:
            os.close(fd)

    def destroy_all(self, call_ids: Iterable[str]) -> None:
        """Do that for each.

        Raises:
            StockadeError: as `destroy`.
        """
        for call_id in call_ids:
            self.destroy(call_id)

    def _require_content(self, key_id: str) -> None:
        erased = self.erasure(key_id)
        if erased is not None:
            raise content_erased(key_id, erased)
        removal = self._fates.removal(key_id)
        if removal is not None:
            raise content_removed(key_id, removal)

    def _in_memory(self, key_id: str) -> ContentKey | None:
        with self._lock:
            self._tidy()
            held = self._held.get(key_id)
            return held.key if held is not None else self._live.get(key_id)

    def _tidy(self) -> None:
        now_s = self._clock_s()
        for key_id in [one for one, held in self._held.items() if held.until_s <= now_s]:
            del self._held[key_id]
        while len(self._held) > HELD_MAX:
            self._held.popitem(last=False)


def read_key(folder: Path, key_id: str, identities: tuple[str, ...]) -> ContentKey | None:
    """Read the key of a call; None where no identity opens it.

    Raises:
        AuditCorrupt: `KEY_MISSING`, `KEY_DAMAGED`.
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
    """
    if not CALL_ID.fullmatch(key_id):
        raise AuditCorrupt("KEY_MISSING", "no call has such a name")
    try:
        with os.fdopen(open_to_read(folder / key_id), "rb") as file:
            data = file.read(KEY_FILE_BYTES_MAX)
    except FileNotFoundError as error:
        raise AuditCorrupt(
            "KEY_MISSING",
            f"the key of {key_id} is missing, and nothing says that it was erased",
            hint="an upload's is in a daemon's memory alone; else run `stockade audit verify`",
        ) from error
    return unwrapped(data, key_id, identities)


def content_locked(key_id: str, *, offline: bool = False, tried: bool = True) -> StockadeError:
    """Make the error for content that nobody here has the key of: a daemon, or with `offline` who
    reads a folder, and then whether any identity was `tried`."""
    why = "no identity of the daemon's opens it"
    hint = (
        f"stockade audit cat --identity FILE --dir STATE {key_id}; or give the daemon one: "
        "record: {identity: …}"
    )
    if offline:
        why = "none of the given identities opens it" if tried else "no identity was given"
        hint = "--identity FILE, with an age identity of one of the recipients that `intent` names"
    return CallStateError(
        "CONTENT_LOCKED",
        f"the content of call {key_id} is encrypted, and {why}",
        hint=hint,
        metadata={"call_id": key_id},
    )


def content_erased(key_id: str, erased: Erasure) -> StockadeError:
    """Make the error for content that was erased."""
    seconds = erased.time_ns // 1_000_000_000
    on = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    return NotFound(
        "CONTENT_ERASED",
        f"the content of call {key_id} was erased by {erased.by} on {on}: {safe(erased.why)}",
        metadata={"call_id": key_id, "by": erased.by, "why": erased.why},
    )


def content_removed(call_id: str, removal: Removal) -> StockadeError:
    """Make the error for content that retention removed."""
    return NotFound("CONTENT_REMOVED", f"the contents of call {call_id} were {removal.told()}")
