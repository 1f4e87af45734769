"""The part of the configuration that is about the console."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from supervisor.api.witness_config import Closed, split_host_port

LOOPBACK = ("127.0.0.1", "::1")
"""Addresses and no names: a link names the one that is listened on."""


class Console(Closed):
    """Where a browser of this host may come to."""

    listen: str

    @model_validator(mode="after")
    def _loopback(self) -> Self:
        host, _ = split_host_port(self.listen)
        if host not in LOOPBACK:
            raise ValueError(f"the console is served on {' or '.join(LOOPBACK)} only")
        return self
