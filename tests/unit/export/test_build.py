"""Orders, and the sinks that are made of them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from supervisor.export.build import SINKS, Order, make_sink
from supervisor.export.event import Source
from supervisor.export.sinks.file import FileOptions, FileSink

ORDER = Order(
    name="archive",
    kind="file",
    options=FileOptions(path=Path("/x/y")),
    made_by="json",
    source=Source(origin="o", host="h", version="v"),
    uid=0,
)


def test_an_order_comes_as_it_was_and_nothing_of_it_is_on_disk() -> None:
    fd = ORDER.write()
    try:
        assert Order.read(fd) == ORDER
        assert Path(f"/proc/self/fd/{fd}").readlink().name.startswith("memfd:")
    finally:
        os.close(fd)


def test_what_is_shown_of_an_order_has_none_of_its_secrets() -> None:
    assert "/x/y" not in repr(ORDER)


def test_the_sink_is_of_the_kind_that_was_ordered() -> None:
    assert isinstance(make_sink(ORDER), FileSink)


@pytest.mark.parametrize("kind", sorted(SINKS))
def test_every_kind_is_there(kind: str) -> None:
    module, name = SINKS[kind]
    assert hasattr(importlib.import_module(module), name)
