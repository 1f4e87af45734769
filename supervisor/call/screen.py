"""Make what a program wrote to a terminal harmless to another, and keep what it drew.

A terminal obeys more than drawing: it answers questions as if somebody had typed, sets titles,
fills the clipboard, reports the mouse, prints. What draws is passed on: text, the cursor, erasing,
scrolling, colours, the other screen. All else is left out and counted (ECMA-48, and what xterm adds
to it in ctlseqs). Nothing that is passed on outlasts `end`. Pure.
"""

from __future__ import annotations

import codecs
import enum
import re

ESC = "\x1b"
SEQUENCE_MAX = 128
"""Characters of a control sequence; a longer one is left out."""

NUMBER_MAX = 9999
"""Of a parameter: more repeats, lines or columns than any screen has only keep a terminal busy."""

CONTROLS = frozenset("\a\b\t\n\v\f\r\x0e\x0f")
NOTHING = frozenset("\0\x7f")
"""Ignored by a terminal, and not counted."""

JOINERS = frozenset("\u200c\u200d")
"""Not printable by themselves; they make one character of two."""

CANCELS = frozenset("\x18\x1a")
STRINGS = frozenset("]PX^_k")
"""After ESC: what is addressed to the terminal's program, up to ST, or BEL."""

SIMPLE = frozenset("78DEM")
CHARACTER_SETS = re.compile(r"[()][0AB]|#8")
DRAWS = re.compile(r"[\d;]*[@A-GIK-MPSXZ`abdefHr]|[012]?J|\d*T|[\d;:]*m|[su]")
SAFE_MODES = frozenset({"4"})
SAFE_PRIVATE_MODES = frozenset({"6", "7", "12", "25", "47", "1047", "1048", "1049"})
OTHER_SCREEN = frozenset({"47", "1047", "1049"})
NUMBERS = re.compile(r"\d+", re.ASCII)
_RESET = f"{ESC}[r{ESC}[?6l{ESC}[4l{ESC}[?7h{ESC}[?25h{ESC}[m{ESC}(B\x0f"
_CLEAR = f"{ESC}[H{ESC}[2J"


class _State(enum.Enum):
    GROUND = enum.auto()
    ESCAPE = enum.auto()
    CONTROL = enum.auto()
    STRING = enum.auto()
    STRING_ESCAPE = enum.auto()


class SafeScreen:
    """A filter between what was recorded of a terminal and a terminal, whatever the pieces."""

    def __init__(self) -> None:
        self.left_out = 0
        """How many sequences and controls."""
        self.drew = False
        """Whether a sequence was passed on: the cursor may be anywhere."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = _State.GROUND
        self._sequence = ""
        self._returned = False
        self._other_screen = False

    def feed(self, data: bytes) -> str:
        """Give what may be written of `data`."""
        return "".join(map(self._take, self._decoder.decode(data)))

    def end(self) -> str:
        """Give what takes back all that was set; what is fed then begins anew."""
        text = "".join(map(self._take, self._decoder.decode(b"", True)))
        if self._state is not _State.GROUND:
            self._leave_out()
        if self.drew:
            # Margins and origin move the cursor: it is put back.
            text += f"{ESC}7{_RESET}{ESC}8" + (f"{ESC}[?1049l" if self._other_screen else "")
        self._other_screen = False
        return text

    def _take(self, character: str) -> str:
        if character in CANCELS:
            self._state = _State.GROUND
            return ""
        match self._state:
            case _State.GROUND:
                return self._ground(character)
            case _State.ESCAPE:
                return self._escape(character)
            case _State.CONTROL:
                return self._control(character)
            case _State.STRING:
                if character == "\a":
                    self._leave_out()
                elif character == ESC:
                    self._state = _State.STRING_ESCAPE
                return ""
            case _State.STRING_ESCAPE:
                self._leave_out()
                if character != "\\":
                    self._state, self._sequence = _State.ESCAPE, ""
                    return self._escape(character)
                return ""

    def _ground(self, character: str) -> str:
        returned, self._returned = self._returned, character == "\r"
        if character == ESC:
            self._state, self._sequence = _State.ESCAPE, ""
        elif character == "\n" and not returned:
            # Straight down. A terminal that is not raw would make a line end of it.
            self.drew = True
            return f"{ESC}D"
        elif character.isprintable() or character in CONTROLS or character in JOINERS:
            return character
        elif character not in NOTHING:
            self.left_out += 1
        return ""

    def _escape(self, character: str) -> str:
        self._sequence += character
        if character == ESC:
            self._sequence = ""
        elif character == "[" and len(self._sequence) == 1:
            self._state, self._sequence = _State.CONTROL, ""
        elif character in STRINGS and len(self._sequence) == 1:
            self._state = _State.STRING
        elif " " <= character <= "/" and len(self._sequence) < SEQUENCE_MAX:
            pass  # more is to come
        elif self._sequence in SIMPLE or CHARACTER_SETS.fullmatch(self._sequence):
            return self._pass_on(f"{ESC}{self._sequence}")
        elif self._sequence == "c":
            self._other_screen, leave = False, self._other_screen
            return self._pass_on((f"{ESC}[?1049l" if leave else "") + _RESET + _CLEAR)
        else:
            self._leave_out()
        return ""

    def _control(self, character: str) -> str:
        if character in CONTROLS:
            return self._ground(character)  # at once, in the middle of it, as terminals do
        if character == ESC:
            self.left_out += 1
            self._state, self._sequence = _State.ESCAPE, ""
            return ""
        self._sequence += character
        if " " <= character <= "?" and len(self._sequence) < SEQUENCE_MAX:
            return ""
        if "@" <= character <= "~":
            return self._decide(self._sequence)
        self._leave_out()
        return ""

    def _decide(self, sequence: str) -> str:
        if any(int(number) > NUMBER_MAX for number in NUMBERS.findall(sequence)):
            self._leave_out()
        elif sequence[-1] in "hl":
            return self._modes(sequence)
        elif DRAWS.fullmatch(sequence):
            return self._pass_on(f"{ESC}[{sequence}")
        else:
            self._leave_out()
        return ""

    def _modes(self, sequence: str) -> str:
        """Pass on those modes of a list that draw."""
        private, final = sequence.startswith("?"), sequence[-1]
        asked = sequence[1 if private else 0 : -1].split(";")
        safe = SAFE_PRIVATE_MODES if private else SAFE_MODES
        modes = [mode for mode in asked if mode in safe]
        if len(modes) < len(asked):
            self.left_out += 1
        if private and OTHER_SCREEN & set(modes):
            self._other_screen = final == "h"
        if not modes:
            self._state = _State.GROUND
            return ""
        return self._pass_on(f"{ESC}[{'?' if private else ''}{';'.join(modes)}{final}")

    def _pass_on(self, text: str) -> str:
        self._state, self.drew, self._returned = _State.GROUND, True, False
        return text

    def _leave_out(self) -> None:
        self._state = _State.GROUND
        self.left_out += 1
