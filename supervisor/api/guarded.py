"""Refuse policy that somebody else could write, and keys that somebody else can read.

Policy is what says who may do what: the configuration, the profiles, certificates and their
authorities, secrets and the programs that give them, and witnesses. Three users are trusted with
it, since each could change the daemon itself: root, the daemon's own user, and the owner of its
program (a checkout that belongs to whoever made it). For a file or folder of policy:

- it, and every folder on the way to it, belongs to one of the three;
- nobody else may write it: not all users, and no group but the private one of its owner, which
  bears the owner's name and has no other member (Debian's default; under umask 002 a checkout's
  files are writable by it);
- no folder on the way to it is writable by all users, unless it is sticky, as /tmp is.

Where a folder that the daemon writes to is not there yet, the same holds for the folder that it
would be made in, and a sticky one is writable then.

A private key may moreover not be readable by all users. What is not there is not looked at: who
reads it says so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import supervisor
from supervisor.api.accounts import group_name, is_private_group, user_name
from supervisor.api.config import Configuration
from supervisor.api.config_values import Secret
from supervisor.errors import ProfileError

PROGRAM = Path(supervisor.__file__).parent


def require_guarded(
    config: Configuration, *, source: Path | None, profiles: Iterable[Path]
) -> None:
    """Check everything that is policy: `source` is the configuration's file, None where there is
    none, and `profiles` are the folders that are loaded.

    Raises:
        ProfileError: `POLICY_WRITABLE` or `TLS_KEY_EXPOSED`, with path, mode, and what to do.
    """
    trusted = frozenset({0, os.geteuid(), PROGRAM.stat().st_uid})
    if source is not None:
        require_unwritable(source, trusted)
    for folder in profiles:
        require_tree_unwritable(folder, trusted)
    for listener in config.listen:
        if listener.tls is not None:
            for name in (listener.tls.cert, listener.tls.client_ca, listener.tls.key):
                require_unwritable(Path(name), trusted)
            require_secret(Path(listener.tls.key))
    for path in (
        *_of_secrets(config),
        *_of_record(config),
        *_of_witnesses(config),
        *_of_sinks(config),
    ):
        require_unwritable(path, trusted)
    for entry in config.sinks.values():
        if entry.tls_key is not None:
            require_secret(Path(entry.tls_key))


def _of_secrets(config: Configuration) -> Iterator[Path]:
    """Give what decides about secrets: files, programs that are run as the daemon, authorities."""
    if config.egress.ca is not None:
        yield Path(config.egress.ca)
    for secret in config.secrets.values():
        yield from _of_secret(secret)


def _of_secret(secret: Secret) -> Iterator[Path]:
    if secret.file is not None:
        yield Path(secret.file)
    if secret.command is not None:
        yield Path(secret.command[0])


def _of_witnesses(config: Configuration) -> Iterator[Path]:
    """Give the programs that are run as the daemon, and the folders of files that it writes."""
    for entry in config.witnesses:
        if entry.command is not None:
            yield Path(entry.command[0])
        if entry.file is not None:
            yield _standing(Path(entry.file).parent)


def _of_sinks(config: Configuration) -> Iterator[Path]:
    """Give what decides about sinks: certificates, keys, secrets, and the folders of files that the
    daemon writes."""
    for entry in config.sinks.values():
        for secret in entry.secrets.values():
            yield from _of_secret(secret)
        yield from map(Path, entry.tls_files)
        for path in entry.writes:
            yield _standing(Path(path).parent)


def _standing(folder: Path) -> Path:
    """Give a folder that is written to, or where it is not there the last one on the way to it:
    who can write that one could make it."""
    return next(one for one in (folder, *folder.parents) if one.exists())


def _of_record(config: Configuration) -> Iterator[Path]:
    """Give what decides about the log's key, its file, the library that the daemon loads for it,
    and the PIN's file; and where the identity is from that reads the content of calls."""
    if config.record is None:
        return
    if config.record.identity is not None:
        yield from _of_secret(config.record.identity)
    key = config.record.key
    if key is None:
        return
    if key.file is not None:
        yield Path(key.file)
    if key.pkcs11 is not None:
        yield Path(key.pkcs11.module)
        if key.pkcs11.pin.file is not None:
            yield Path(key.pkcs11.pin.file)


def require_tree_unwritable(folder: Path, trusted: frozenset[int]) -> None:
    """Check a folder of profiles, its fragments, and each file that is read from them.

    Raises:
        ProfileError: `POLICY_WRITABLE`.
    """
    require_unwritable(folder, trusted)
    for path in sorted(folder.glob("*.yaml")):
        require_unwritable(path, trusted)
    fragments = folder / "fragments"
    if fragments.is_dir():
        require_unwritable(fragments, trusted)
        for path in sorted(fragments.glob("*.yaml")):
            require_unwritable(path, trusted)


def require_unwritable(path: Path, trusted: frozenset[int]) -> None:
    """Check one file or folder of policy, and the folders on the way to it.

    Raises:
        ProfileError: `POLICY_WRITABLE`.
    """
    if not path.exists():
        return
    real = path.resolve()
    found = real.stat()
    _require_owner(real, found, trusted)
    if found.st_mode & stat.S_IWOTH:
        raise _writable(real, found, "all users can write it", f"chmod o-w {real}")
    if found.st_mode & stat.S_IWGRP and not is_private_group(found.st_gid, found.st_uid):
        raise _writable(
            real, found, f"group {group_name(found.st_gid)} can write it", f"chmod g-w {real}"
        )
    for folder in real.parents:
        above = folder.stat()
        _require_owner(folder, above, trusted)
        if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
            raise _writable(folder, above, f"all users can replace {real}", f"chmod o-w {folder}")


def require_secret(path: Path) -> None:
    """Check that not all users can read a private key.

    Raises:
        ProfileError: `TLS_KEY_EXPOSED`.
    """
    if not path.exists():
        return
    found = path.stat()
    if found.st_mode & stat.S_IROTH:
        raise ProfileError(
            "TLS_KEY_EXPOSED",
            f"{path} (mode {_mode(found)}): all users can read the private key",
            hint=f"make a new key, and chmod 0600 {path}",
            metadata={"path": str(path), "mode": _mode(found)},
        )


def _require_owner(path: Path, found: os.stat_result, trusted: frozenset[int]) -> None:
    if found.st_uid not in trusted:
        raise _writable(
            path, found, f"it belongs to {user_name(found.st_uid)}", f"chown root {path}"
        )


def _writable(path: Path, found: os.stat_result, why: str, hint: str) -> ProfileError:
    return ProfileError(
        "POLICY_WRITABLE",
        f"{path} (mode {_mode(found)}) is part of the daemon's policy, and {why}",
        hint=hint,
        metadata={"path": str(path), "mode": _mode(found)},
    )


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"
