"""Tell systemd where the daemon is (sd_notify(3)); nothing where systemd did not ask."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger("stockade.api")


def notify(message: str) -> bool:
    """Send one message, as READY=1; say whether there was somebody to send it to."""
    address = os.environ.get("NOTIFY_SOCKET", "")
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
