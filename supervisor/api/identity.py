"""The identity by which the daemon opens the content of calls: from a file or a credential as
`age-keygen` writes them, or from a command that prints one line.

It is read once, at the start, and held in memory.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from supervisor.audit.sealing import identities_in
from supervisor.errors import HostError
from supervisor.linux.private import GROUP_AND_OTHERS, OTHERS, NotPrivate, read_private
from supervisor.sandbox.secrets import Secrets, SecretSource

FILE_BYTES_MAX = 64 * 1024
_NAME = "record.identity"


async def read_identities(source: SecretSource, credentials: Path | None) -> tuple[str, ...]:
    """Give the identities; `credentials` is the folder that systemd gives its services.

    Raises:
        HostError: `IDENTITY_UNAVAILABLE`; the message holds nothing of what was read.
    """
    try:
        if source.command:
            text = await Secrets(sources={_NAME: source}).value(_NAME)
        else:
            text = await asyncio.to_thread(_content, source, credentials)
        return identities_in(text)
    except (HostError, NotPrivate, ValueError) as error:
        message = error.message if isinstance(error, HostError) else str(error)
        raise HostError(
            "IDENTITY_UNAVAILABLE",
            f"the identity that opens the content of calls: {message}",
            hint="record: {identity: {file: /path}}, a file of age-keygen's, mode 0600",
        ) from error


def _content(source: SecretSource, credentials: Path | None) -> str:
    if source.file:
        path, denied = Path(source.file), GROUP_AND_OTHERS
    elif credentials is None:
        raise ValueError(
            f"no credential {source.credential}: systemd gave this daemon none; LoadCredential= in "
            "the unit"
        )
    else:
        path, denied = credentials / source.credential, OTHERS
    data = read_private(path, FILE_BYTES_MAX, denied=denied)
    if not data.isascii():
        raise ValueError("it is not ASCII")  # an error of the decoder's would tell a byte of it
    return data.decode("ascii")
