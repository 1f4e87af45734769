"""Messages of RFC 5424, read back by a reader that is not ours to break."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.export.sinks.message import BOM, Messages, lines, priority, text, timestamp, word
from tests.unit.export.sinks.samples import event, line_bytes, parse, texts

MESSAGES = Messages(facility=13, host="web 1")


def test_a_message() -> None:
    assert MESSAGES.message(event()) == (
        b"<108>1 2026-11-27T02:53:20.123456Z web_1 stockade - denied "
        b'[stockade@32473 uid="7-0123456789abcdef-0" index="7" class="6003"] {"a":1}'
    )


@given(texts(), texts(), texts(), line_bytes(), st.integers(), st.integers(0, 2**63))
def test_no_text_of_an_event_leaves_its_field(
    host: str, uid: str, kind: str, data: bytes, time_ns: int, index: int
) -> None:
    made = event(index, data, uid=uid, kind=kind, time_ns=time_ns)
    message = Messages(facility=1, host=host).message(made)
    assert not set(message) & {*range(0x20), 0x7F}
    found = parse(message)
    assert (found.app, found.procid, found.sd_id) == ("stockade", "-", "stockade@32473")
    assert found.msg == data
    assert list(found.params) == ["uid", "index", "class"]
    assert found.params["index"] == str(index)
    assert (
        re.sub(r"[\x00-\x1f\x7f]", "_", uid.encode("utf-8", "replace").decode())
        == (found.params["uid"])
    )
    assert found.timestamp == "-" or len(found.timestamp) == 27


@pytest.mark.parametrize(
    ("severity", "wanted"),
    [(1, 6), (2, 5), (3, 4), (4, 3), (5, 2), (6, 1), (0, 5), (99, 5)],
)
def test_priorities(severity: int, wanted: int) -> None:
    assert priority(severity) == wanted
    assert parse(MESSAGES.message(event(severity=severity))).pri == 13 * 8 + wanted


@pytest.mark.parametrize("facility", [-1, 24])
def test_a_facility_that_there_is_not(facility: int) -> None:
    with pytest.raises(ValueError, match="facility"):
        Messages(facility=facility, host="")


def test_times_that_have_no_year_of_four_digits() -> None:
    assert timestamp(-1) == timestamp(253402300800 * 10**9) == b"-"
    assert timestamp(0) == b"1970-01-01T00:00:00.000000Z"
    assert timestamp(253402300800 * 10**9 - 1) == b"9999-12-31T23:59:59.999999Z"
    for time_ns in (-1, 253402300800 * 10**9):
        assert parse(MESSAGES.message(event(time_ns=time_ns))).timestamp == "-"


@given(st.integers(0, 253402300799 * 10**9))
def test_the_second_that_is_kept_is_the_right_one(time_ns: int) -> None:
    assert parse(MESSAGES.message(event(time_ns=time_ns))).timestamp == timestamp(time_ns).decode()


def test_a_mark_of_byte_order_is_there_only_where_asked_for() -> None:
    marked = Messages(facility=1, host="h", bom=True).message(event())
    assert parse(marked).msg == BOM + b'{"a":1}'
    assert BOM not in MESSAGES.message(event())


def test_words_are_cut_and_never_empty() -> None:
    assert word("", 5) == b"-"
    assert word("a\n\u00e4\x7f \u00e4", 5) == b"a_?__"


@given(st.lists(st.one_of(line_bytes(), st.binary(max_size=12)), max_size=6))
def test_what_is_no_line_is_not_sent(datas: list[bytes]) -> None:
    batch = [event(at, data) for at, data in enumerate(datas)]
    good, rejected = lines(batch, 100)
    bad = {
        at
        for at, data in enumerate(datas)
        if len(data) > 100 or any(byte < 0x20 or byte == 0x7F for byte in data)
    }
    assert [one.position for one in rejected] == sorted(bad)
    assert [one.index for one in good] == [at for at in range(len(batch)) if at not in bad]
    assert all(one.why for one in rejected)


@given(st.lists(line_bytes() | st.binary(max_size=30), max_size=6))
def test_a_line_is_an_event(datas: list[bytes]) -> None:
    batch = [event(number, data) for number, data in enumerate(datas)]
    good, rejected = lines(batch, 20)
    written, others = text(batch, 20)
    assert written.split(b"\n") == [*(one.data for one in good), b""]
    assert others == rejected
