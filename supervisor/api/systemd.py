"""Tell systemd where the daemon is (sd_notify(3)); nothing where systemd did not ask.

The address comes from whoever reads the environment: no room but the command line does.
"""

from __future__ import annotations

import logging
import socket

log = logging.getLogger("stockade.api")


def notify(address: str, message: str) -> bool:
    """Send one message, as READY=1, to `address` ($NOTIFY_SOCKET); say whether it was sent."""
    if address[:1] not in {"/", "@"}:
        return False
    target = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(target)
            sender.sendall(message.encode())
    except OSError as error:
        log.warning("systemd could not be told %s: %s", message, error)
        return False
    return True
