"""Formats by their names."""

import pytest

from supervisor.export.event import Source
from supervisor.export.formats.make import NAMES, make_format

SOURCE = Source(origin="o", host="h", version="v")


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_a_format(name: str) -> None:
    assert make_format(name, SOURCE).encode


def test_another_name_has_none() -> None:
    with pytest.raises(ValueError, match="no format 'xml': one of "):
        make_format("xml", SOURCE)
