"""Formats by their names."""

import pytest

from supervisor.export.event import Entry, Head, Source
from supervisor.export.formats.make import FORMATS, make_format

SOURCE = Source(origin="o", host="h", version="v")
ENTRY = Entry(7, "ab" * 32, 12, "daemon_started", "", 0, {"pid": 1})


def test_each_name_has_a_format_of_its_own() -> None:
    made = {make_format(name, SOURCE).encode(ENTRY, None, Head(0, ""))[0].data for name in FORMATS}
    assert len(made) == len(FORMATS)


def test_another_name_has_none() -> None:
    with pytest.raises(ValueError, match="no format 'xml': one of ocsf, "):
        make_format("xml", SOURCE)
