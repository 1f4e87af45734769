"""What the configuration names, as the rooms of the daemon take it: keys, secrets, policies."""

from __future__ import annotations

import dataclasses
import functools
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.errors import ProfileError

if TYPE_CHECKING:
    from supervisor.api.config import Configuration
    from supervisor.api.metrics import Metrics
    from supervisor.audit.masks import Masks
    from supervisor.audit.notes import Signer
    from supervisor.audit.retention import RetainPolicy
    from supervisor.audit.watermark import Watermark
    from supervisor.sandbox import EgressOptions

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Where systemd tells a service its credentials' folder (systemd.exec(5))."""


def egress_options(config: Configuration) -> EgressOptions:
    """Give what the configuration says of the way out of calls.

    Raises:
        ProfileError: `CONFIG_INVALID`: the file of authorities is missing or holds none.
    """
    from supervisor.sandbox import EgressOptions

    secrets = config.secrets_with(credentials())
    options = EgressOptions(resolvers=config.egress.resolvers, secrets=secrets)
    if config.egress.ca is None:
        return options
    path = Path(config.egress.ca)
    try:
        # As the broker does: it is given the text, and has no files.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=path.read_text())
    except OSError as error:
        why = "holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise _no_authorities(path, str(why)) from error
    except ValueError as error:  # it is empty, or no text
        raise _no_authorities(path, "holds no certificate") from error
    return dataclasses.replace(options, authorities=path)


def signer_of(config: Configuration) -> Signer | None:
    """Give what signs the log's heads; None where that is the key in the state folder.

    Raises:
        HostError: `KEY_INVALID`, `KEY_EXPOSED`, `KEY_UNAVAILABLE`, `PKCS11_MISSING`.
    """
    from supervisor.audit.signers import open_signer

    record = config.record
    if record is None or record.key is None or record.origin is None:
        return None
    return open_signer(record.key.source, record.origin, credentials())


def retain_of(
    config: Configuration, metrics: Metrics, sinks: Callable[[], tuple[str, ...]] = tuple
) -> RetainPolicy | None:
    """Give what of the record is kept, None where all is; `sinks` gives the names of our sinks."""
    if config.record is None or config.record.retain is None:
        return None
    return dataclasses.replace(config.record.retain.policy, observer=metrics, sinks=sinks)


def recipients_of(config: Configuration) -> tuple[str, ...]:
    """Give who can read the content of calls, everybody with the disk where nobody is named."""
    return tuple(config.record.recipients or ()) if config.record is not None else ()


async def identities_of(config: Configuration) -> tuple[str, ...]:
    """Give the identities by which the daemon reads the content of calls, none where it has none.

    Raises:
        HostError: `IDENTITY_UNAVAILABLE`.
    """
    from supervisor.api.identity import read_identities

    if config.record is None or config.record.identity is None:
        return ()
    return await read_identities(config.record.identity.source, credentials())


def masks_of(config: Configuration) -> Callable[[bytes], Masks]:
    """Give what looks for secrets, by the library that the configuration names.

    Raises:
        HostError: `HYPERSCAN_MISSING`, `HYPERSCAN_UNSUITABLE`.
    """
    from supervisor.audit.masks import Masks
    from supervisor.audit.redaction.prefilter import open_hyperscan

    redact = config.record.redact if config.record is not None else None
    if redact is None or redact.engine == "re2":
        return Masks
    return functools.partial(Masks, hyperscan=open_hyperscan())


def credentials() -> Path | None:
    """Give the folder of the credentials that systemd gave this daemon."""
    given = os.environ.get(CREDENTIALS)
    return Path(given) if given else None


def watermark_of(config: Configuration) -> Watermark | None:
    """Give what has to be left of the disk for new calls; None where nothing has."""
    from supervisor.audit.watermark import Watermark

    marks = config.marks
    if marks is None:
        return None
    return Watermark(Path(config.state), soft=marks.soft, hard=marks.hard)


def _no_authorities(path: Path, why: str) -> ProfileError:
    return ProfileError(
        "CONFIG_INVALID",
        f"egress.ca: {path}: {why}",
        hint="a file of certificates in PEM: of those that may vouch for servers, in place of the "
        "host's",
    )
