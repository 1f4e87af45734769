"""What a program wrote to a terminal: what draws is passed on, and nothing that does more."""

from __future__ import annotations

import re

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.call.screen import NUMBER_MAX, SafeScreen

DRAWN = [
    "plain ünïcode 日本 👩\u200d💻\r\n\ttab\b\a",
    "\x1b[2J\x1b[H\x1b[10;20Hx\x1b[1;31mred\x1b[38:5:1mx\x1b[0m",
    "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[4h\x1b[1;10r\x1b[3S\x1b[2T\x1b[5b",
    "\x1b7\x1b8\x1bM\x1bD\x1bE\x1b(0lqk\x1b(B\x1b#8",
    "\x1b[K\x1b[1K\x1b[0J\x1b[3@\x1b[2P\x1b[2L\x1b[2M\x1b[4X\x1b[s\x1b[u\x1b[5G\x1b[5d\x1b[Z",
]
LEFT_OUT = {
    "a title": "\x1b]0;title\x07",
    "the clipboard": "\x1b]52;c;ZXZpbA==\x1b\\",
    "a link": "\x1b]8;;http://example.com\x07",
    "a device control string": '\x1bP$q"p\x1b\\',
    "an application's": "\x1b_Gf=100;x\x1b\\",
    "a private message": "\x1b^x\x1b\\",
    "screen's title": "\x1bktitle\x1b\\",
    "who are you": "\x1b[c",
    "who are you, again": "\x1b[>c",
    "where is the cursor": "\x1b[6n",
    "which version": "\x1b[>q",
    "which mode": "\x1b[?2026$p",
    "the window's title": "\x1b[21t",
    "the window's size": "\x1b[8;10;10t",
    "print the screen": "\x1b[5i",
    "the mouse": "\x1b[?1003h",
    "brackets around what is pasted": "\x1b[?2004h",
    "the focus": "\x1b[?1004h",
    "other cursor keys": "\x1b[?1h",
    "the keypad": "\x1b=",
    "kitty's keyboard": "\x1b[>1u",
    "a cursor for ever": "\x1b[2 q",
    "what was scrolled away": "\x1b[3J",
    "tabs": "\x1bH",
    "a long wait": f"\x1b[{NUMBER_MAX + 1}b",
    "a longer one": "\x1b[" + "1" * 1000 + "b",
    "the other direction": "\u202e",
    "CSI in one character": "\x9b",
    "eight bits from now on": "\x1b G",
    "identify": "\x1bZ",
}
ALLOWED = re.compile(
    "[^\x00-\x1f\x7f-\x9f]|[\a\b\t\n\v\f\r\x0e\x0f]|\x1b[78DEM]|\x1b[()][0AB]|\x1b#8"
    r"|\x1b\[[\d;]*[@A-GIK-MPSXZ`abdefHr]|\x1b\[[012]?J|\x1b\[\d*T|\x1b\[[\d;:]*m|\x1b\[[su]"
    r"|\x1b\[4[hl]|\x1b\[\?(?:6|7|12|25|47|1047|1048|1049)(?:;(?:6|7|12|25|47|1047|1048|1049))*[hl]"
)
SEQUENCES = st.builds(
    "\x1b{}{}{}".format,
    st.sampled_from(["[", "[?", "[>", "]", "P", "(", "", "\x1b"]),
    st.text("0123456789;:$ !", max_size=8),
    st.characters(min_codepoint=0x20, max_codepoint=0x7E),
)
STREAMS = st.lists(st.text(max_size=5) | SEQUENCES | st.sampled_from([*DRAWN, *LEFT_OUT.values()]))


def told(*pieces: bytes) -> tuple[str, SafeScreen]:
    screen = SafeScreen()
    return "".join(map(screen.feed, pieces)), screen


@pytest.mark.parametrize("text", DRAWN)
def test_what_draws_is_passed_on(text: str) -> None:
    said, screen = told(text.encode())
    assert said == text
    assert not screen.left_out


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_does_more_is_left_out_and_counted(name: str) -> None:
    said, screen = told(b"a" + LEFT_OUT[name].encode() + b"\r\n")
    assert said.startswith("a")
    assert "\x1b" not in said
    assert screen.left_out >= 1
    assert said.endswith("\r\n") or name in ("a longer one",)


def test_of_several_modes_those_that_draw_are_passed_on() -> None:
    said, screen = told(b"\x1b[?25;1003;7l\x1b[20;4h")
    assert said == "\x1b[?25;7l\x1b[4h"
    assert screen.left_out == 2


def test_a_line_feed_alone_goes_straight_down() -> None:
    """A terminal that is not raw would return as well."""
    assert told(b"a\nb\r\nc\r", b"\nd")[0] == "a\x1bDb\r\nc\r\nd"


def test_a_reset_is_one_without_what_a_terminal_forgets_by_it() -> None:
    said, _ = told(b"\x1b[?1049hx\x1bc")
    assert "\x1bc" not in said
    assert said.endswith("\x1b[H\x1b[2J")
    assert "\x1b[?1049l" in said


def test_the_end_takes_back_what_was_set() -> None:
    assert told(b"text\r\n")[1].end() == ""
    _, screen = told(b"\x1b[?1049h\x1b[?25l\x1b[4h\x1b[2;3r\x1b[31m\x1b]0;")
    ended = screen.end()
    for mode in ("\x1b[?1049l", "\x1b[?25h", "\x1b[4l", "\x1b[r", "\x1b[m", "\x1b(B"):
        assert mode in ended
    assert screen.left_out == 1
    assert screen.feed(b"]0;") == "]0;"


@given(STREAMS, st.data())
def test_it_is_safe_however_it_is_cut(texts: list[str], data: st.DataObject) -> None:
    raw = "".join(texts).encode(errors="surrogatepass")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    said, screen = told(*pieces)
    whole, other = told(raw)
    assert (said, screen.left_out, screen.end()) == (whole, other.left_out, other.end())
    assert ALLOWED.sub("", whole) == ""


@given(st.binary())
def test_any_bytes_are_safe(raw: bytes) -> None:
    said, screen = told(raw)
    assert ALLOWED.sub("", said + screen.end()) == ""


MOVES = ("2J", "3;4H", "31m", "K", "A", "2;5r", "L", "m")


@given(st.lists(st.text("abé\r\n", max_size=9) | st.sampled_from(MOVES).map("\x1b[{}".format)))
def test_what_is_drawn_is_the_same(texts: list[str]) -> None:
    raw = "".join(texts)
    exact, safe = pyte.Screen(20, 6), pyte.Screen(20, 6)
    pyte.Stream(exact).feed(raw)
    pyte.Stream(safe).feed(told(raw.encode())[0])
    assert safe.display == exact.display
    assert (safe.cursor.x, safe.cursor.y) == (exact.cursor.x, exact.cursor.y)
