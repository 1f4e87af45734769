"""Verification of the keys of encrypted calls: each is there, as it was made, unless an entry says
that it was erased, and then it is gone, or that retention removed what it opens, and then it goes.
Nothing else lies there, but the key of a call that did not begin."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervisor.audit.account import erasure_of, is_encrypted, removals_of
from supervisor.audit.entry import CALL_ID, Kind, StoredEntry
from supervisor.audit.vault import KEY_FILE_BYTES_MAX
from supervisor.audit.verify_log import Problem, Report


class KeyCheck:
    """Takes the entries of a log in order. `folder` has the keys; a daemon may erase meanwhile, so
    what was there at the beginning is not missing. Where one is `live`, a key may be new."""

    def __init__(self, folder: Path, report: Report, *, live: bool = False) -> None:
        self._live = live
        self._folder = folder
        self._report = report
        self._there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        self._keys: dict[str, tuple[StoredEntry, str]] = {}
        self._ended: set[str] = set()
        self._erased: dict[str, StoredEntry] = {}
        self._removed: set[str] = set()

    @property
    def erased(self) -> int:
        """Give how many calls had their content erased."""
        return len(self._erased)

    def take(self, entry: StoredEntry) -> None:
        """Take an entry into account."""
        if entry.kind == Kind.INTENT:
            body: Mapping[str, Any] = entry.body()
            if is_encrypted(body):
                self._keys[entry.call_id] = entry, str(body["encrypted"]["key_sha256"])
        elif entry.kind == Kind.OUTCOME:
            self._ended.add(entry.call_id)
        elif entry.kind == Kind.ERASED:
            self._take_erased(entry)
        elif entry.kind == Kind.REMOVED:
            self._removed.update(removal.name for removal in removals_of(entry))

    def finish(self) -> None:
        """Hold the folder to what the entries say."""
        for call_id, (entry, sha256) in self._keys.items():
            found = self._read(call_id)
            if call_id in self._erased:
                if found is not None:
                    self._problem(self._erased[call_id], f"the key of {call_id} is still there")
            elif found is None:
                if call_id not in self._there | self._removed:
                    self._problem(entry, "its key is missing, and no entry says that it was erased")
            elif hashlib.sha256(found).hexdigest() != sha256:
                self._problem(entry, "its key is not the one that was made")
        if not self._live:
            self._finish_surplus()

    def _finish_surplus(self) -> None:
        """Report what is there and is no key that the log names, copies of such a key above all."""
        made = {sha256: (call_id, entry) for call_id, (entry, sha256) in self._keys.items()}
        for name in sorted(self._there - self._keys.keys()):
            path = self._folder / name
            if path.is_symlink():
                self._report(Problem(message=f"keys/{name} is a link"))
                continue
            data = self._contents(name) or b""
            forms = (data, data.strip(), data.strip() + b"\n")
            found = (made.get(hashlib.sha256(form).hexdigest()) for form in forms)
            copied = next(filter(None, found), None)
            if copied is not None:
                self._problem(copied[1], f"keys/{name} is a copy of the key of {copied[0]}")
            elif not CALL_ID.fullmatch(name):
                self._report(Problem(message=f"keys/{name} is the key of no call"))

    def _take_erased(self, entry: StoredEntry) -> None:
        call_id, _ = erasure_of(entry)
        if call_id not in self._keys:
            self._problem(entry, f"call {call_id} has no key that could be erased")
        elif call_id not in self._ended:
            self._problem(entry, f"call {call_id} had not ended")
        self._erased.setdefault(call_id, entry)

    def _read(self, call_id: str) -> bytes | None:
        return self._contents(call_id) if CALL_ID.fullmatch(call_id) else None

    def _contents(self, name: str) -> bytes | None:
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(KEY_FILE_BYTES_MAX)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise
        except OSError as error:
            self._report(Problem(message=f"keys/{name} cannot be read: {error.strerror}"))
            return b""

    def _problem(self, entry: StoredEntry, message: str) -> None:
        self._report(Problem.of(entry, message))
