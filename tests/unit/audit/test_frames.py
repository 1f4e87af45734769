"""Frames, many at a time: C and Python make the same, and see the same."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import frames as frames_module
from supervisor.audit.entry import (
    ENTRY_BYTES_MAX,
    HEADER,
    NO_LEAF,
    Head,
    encode_body,
    encode_entry,
    encode_frame,
    leaf_hash,
)
from supervisor.audit.frames import Frames, Seen, count_controls, make_frames, native, see_frames
from supervisor.errors import InvariantError

FIRST = Head(index=7, prev=NO_LEAF, time_ns=5, kind="denied", call="c-1", sequence=3)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
bodies = st.lists(st.dictionaries(st.text(), json_values, max_size=4), min_size=1, max_size=5)
names = st.from_regex(r"[A-Za-z0-9._-]{0,64}", fullmatch=True)
numbers = st.integers(0, 2**63 - 1)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "native", lambda: None)


def slowly(first: Head, encoded: list[bytes], durable: int) -> Frames:
    return frames_module._make_here(first, encoded, durable)


def same(one: Frames, other: Frames) -> bool:
    return (one.data, list(one.ends), one.payloads, one.leaves) == (
        other.data,
        list(other.ends),
        other.payloads,
        other.leaves,
    )


def test_the_library_is_built() -> None:
    assert native() is not None


@given(
    given=bodies, call=names, index=numbers, sequence=numbers, time_ns=numbers, durable=numbers,
    prev=st.binary(min_size=32, max_size=32),
)  # fmt: skip
def test_what_c_makes_is_what_python_makes(
    given: list[dict[str, object]], call: str, index: int, sequence: int, time_ns: int,
    durable: int, prev: bytes,
) -> None:  # fmt: skip
    first = Head(
        index=index, prev=prev, time_ns=time_ns, kind="denied", call=call, sequence=sequence
    )
    encoded = [encode_body(body) for body in given]  # type: ignore[arg-type]
    made = make_frames(first, encoded, durable)
    assert same(made, slowly(first, encoded, durable))
    head, at = first, 0
    for body, payload, leaf in zip(given, made.payloads, made.leaves, strict=True):
        assert payload == encode_entry(head, body)  # type: ignore[arg-type]
        frame = encode_frame(payload, leaf, durable)
        assert made.data[at : at + len(frame)] == frame
        at += len(frame)
        head = replace(head, index=head.index + 1, sequence=head.sequence + 1, prev=leaf)
    seen = see_frames(made.data, index, prev)
    assert seen == frames_module._see_here(made.data, index, prev)
    assert (seen.payloads, seen.leaves, seen.end) == (made.payloads, made.leaves, len(made.data))
    assert [
        json.loads(p[8:tail]) for p, tail in zip(seen.payloads, seen.tails, strict=True)
    ] == given
    assert [one[:2] for one in seen.calls] == [(call.encode(), b"denied")] * len(given)


@pytest.mark.parametrize("length", [1, 8, 9, 255, 4096, 65_000])
def test_the_checksum_is_crc32c(length: int) -> None:
    """Python's is another's; what C computes is held to it, whatever the length comes to."""
    for more in range(9):
        made = make_frames(FIRST, [b'{"a":"' + b"x" * (length + more) + b'"}'], 9)
        rest = made.data[8:]
        wanted = google_crc32c.value(made.data[:4] + rest)
        assert int.from_bytes(made.data[4:8]) == wanted


@pytest.mark.usefixtures("slow")
def test_without_the_library_the_same_is_done() -> None:
    encoded = [b"{}", b'{"a":1}']
    made = make_frames(FIRST, encoded, 4)
    seen = see_frames(made.data, FIRST.index, NO_LEAF)
    assert (seen.payloads, seen.end) == (made.payloads, len(made.data))


def test_a_library_that_cannot_be_had_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frames_module, "LIBRARY_NAME", "none.so")
    with caplog.at_level(logging.WARNING):
        assert native.__wrapped__() is None
    assert "none.so" in caplog.text


def test_a_library_of_another_version_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frames_module, "VERSION", 99)
    with caplog.at_level(logging.WARNING):
        assert native.__wrapped__() is None
    assert "99 is wanted: run make" in caplog.text


def limits() -> Iterator[int]:
    around = len(encode_entry(FIRST, {})) - len(b"{}")
    yield from (ENTRY_BYTES_MAX - around + more for more in (-1, 0, 1))


def body_of_length(length: int) -> bytes:
    return b'{"a":"' + b"x" * (length - 8) + b'"}'


def test_the_longest_entry() -> None:
    below, longest, above = limits()
    for length in (below, longest):
        made = make_frames(FIRST, [body_of_length(length)], 0)
        assert same(made, slowly(FIRST, [body_of_length(length)], 0))
    for many in ([above], [8, above], [above, 8]):
        with pytest.raises(InvariantError) as caught:
            make_frames(FIRST, [body_of_length(max(8, length)) for length in many], 0)
        assert caught.value.reason == "ENTRY_TOO_LARGE"


@pytest.mark.parametrize("how", ["fast", "slow"])
@pytest.mark.parametrize(("call", "kind"), [('c"', "denied"), ("c", 'de"nied'), ("c", "")])
def test_names_that_would_break_an_entry(
    monkeypatch: pytest.MonkeyPatch, call: str, kind: str, how: str
) -> None:
    if how == "slow":
        monkeypatch.setattr(frames_module, "native", lambda: None)
    with pytest.raises(InvariantError) as caught:
        make_frames(replace(FIRST, call=call, kind=kind), [b"{}"], 0)
    assert caught.value.reason == "ENTRY_NAMES"


def chain(count: int) -> Frames:
    return make_frames(FIRST, [b'{"n":%d,"text":"\\"call\\":"}' % n for n in range(count)], 1)


def both(data: bytes, index: int = FIRST.index, leaf: bytes = NO_LEAF) -> tuple[Seen, Seen]:
    library = native()
    assert library is not None
    fast = frames_module._see(library, data, index, leaf)
    assert fast is not None
    return fast, frames_module._see_here(data, index, leaf)


def test_every_flipped_bit_is_seen_by_both() -> None:
    whole = chain(3)
    data = bytearray(whole.data)
    for place, bit in itertools.product(range(whole.ends[0], whole.ends[1]), range(8)):
        data[place] ^= 1 << bit
        fast, slow = both(bytes(data))
        assert len(fast.payloads) == len(slow.payloads) == 1, (place, bit)
        data[place] ^= 1 << bit


def test_every_cut_is_seen_by_both() -> None:
    whole = chain(3)
    for cut in range(len(whole.data)):
        fast, slow = both(whole.data[:cut])
        assert fast == slow
        assert len(fast.payloads) == sum(end <= cut for end in whole.ends)


def framed(payload: bytes) -> bytes:
    """Give a frame whose checksum and leaf hash are right, whatever is in it."""
    rest = payload + leaf_hash(payload)
    checksum = google_crc32c.value(HEADER.pack(len(payload), 0, 1)[:4] + bytes(7) + b"\1" + rest)
    return HEADER.pack(len(payload), checksum, 1) + rest


@given(data=st.data())
def test_c_never_takes_what_python_would_not(data: st.DataObject) -> None:
    """Whoever writes the bytes can make checksums and hashes right."""
    payload = bytearray(chain(1).payloads[0])
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(payload) - 1))
        with_ = data.draw(st.sampled_from([b"", b"0", b'"', b",", b"}", b"9" * 21, b"\xff", b"a"]))
        payload[place : place + data.draw(st.integers(0, 2))] = with_
    raw = framed(bytes(payload)) + data.draw(st.binary(max_size=40))
    fast, slow = both(raw)
    assert fast == slow or (not fast.payloads and fast.end == 0)


def test_an_index_that_c_cannot_count_to_is_left_to_python() -> None:
    data = chain(2).data
    for index in (1 << 64, (1 << 64) + FIRST.index, (1 << 64) - 1):
        assert see_frames(data, index, NO_LEAF).payloads == []


def test_what_c_leaves_is_seen_by_python() -> None:
    raw = framed(chain(1).payloads[0].replace(b'"sequence":3', b'"sequence":03'))
    assert len(see_frames(raw, FIRST.index, NO_LEAF).payloads) == 1


@pytest.mark.parametrize(
    ("old", "new", "taken"),
    [
        (b'"index":7', b'"index":07', False),  # Python would: it is looked at by `segment`.
        (b'"sequence":3', b'"sequence":18446744073709551616', False),
        (b'"sequence":3', b'"sequence":18446744073709551615', True),
        (b'"time_ns":5}', b'"time_ns":5} ', False),
        (b'"kind":"denied"', b'"kind":"' + b"d" * 33 + b'"', False),
        (b'"kind":"denied"', b'"kind":"' + b"d" * 32 + b'"', True),
        (b'"call":"c-1"', b'"call":"' + b"c" * 65 + b'"', False),
        (b'"call":"c-1"', b'"call":"' + b"c" * 64 + b'"', True),
        (b'"call":"c-1"', b'"call":""', True),
        (b'{"body":', b'{"bodY":', False),
    ],
)
def test_what_c_takes(old: bytes, new: bytes, *, taken: bool) -> None:
    payload = chain(1).payloads[0]
    assert old in payload
    fast, slow = both(framed(payload.replace(old, new)))
    assert len(fast.payloads) == int(taken)
    if taken:
        assert fast == slow


@pytest.mark.parametrize("how", ["fast", "slow"])
def test_control_characters_are_counted(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "slow":
        monkeypatch.setattr(frames_module, "native", lambda: None)
    controls = [*range(0x20), 0x7F]
    for byte in range(256):
        for size in (0, 1, 63, 64, 65, 200):
            text = bytes([byte]) * size
            assert count_controls(text) == (size if byte in controls else 0), (byte, size)
            assert count_controls(b"a" * size + text + b"\xff" * size) == count_controls(text)
    assert count_controls(bytes(range(256)) * 1000) == 33_000


def test_bytes_of_anybody_do_not_break_it(tmp_path: Path) -> None:
    """The C is built with sanitizers, and given what `see_frames` could be, and less."""
    source = Path(frames_module.__file__).parent / "native" / "frames.c"
    driver, program = tmp_path / "driver.c", tmp_path / "driver"
    driver.write_text(DRIVER.replace("FRAMES_C", str(source)))
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["gcc", *flags, "-o", program, driver, "-lcrypto"], check=True)
    corpus = tmp_path / "corpus"
    corpus.write_bytes(chain(4).data)
    done = subprocess.run([program, corpus], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "whole: 4" in done.stdout


DRIVER = """
#include "FRAMES_C"
#include <stdlib.h>
int main(int argc, char **argv) {
  static uint8_t data[1 << 16];
  FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
  size_t size = file ? fread(data, 1, sizeof data, file) : 0;
  uint8_t none[32] = {0};
  struct entry out[64];
  printf("whole: %ld\\n", (long)stockade_read_frames(data, size, 7, none, out, 64));
  srand(1);
  for (int round = 0; round < 200000; round++) {
    size_t part = (size_t)rand() % (size + 1);
    uint8_t *copy = malloc(part ? part : 1); /* exactly as long: a byte too far is seen */
    memcpy(copy, data, part);
    for (int flips = rand() % 4; flips > 0 && part; flips--)
      copy[(size_t)rand() % part] = (uint8_t)rand();
    stockade_read_frames(copy, part, 7, none, out, 64);
    stockade_count_controls(copy, part);
    free(copy);
  }
  return 0;
}
"""
