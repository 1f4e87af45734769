"""The record as CEF: what is read back, also by a parser that is not ours, is what was told."""

from __future__ import annotations

import json
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.codec import denied_to_json
from supervisor.audit.entry import Kind
from supervisor.call.events import Denied, Wall
from supervisor.export.event import Entry, Event, Opening
from supervisor.export.formats.cef import Cef, in_extension, in_header
from supervisor.export.formats.ocsf import Ocsf
from tests.support.exported import HEAD, HOSTILE, SOURCE, collect

Pairs = list[tuple[Entry, Opening | None]]
HEADER = ("DeviceVendor", "DeviceProduct", "DeviceVersion", "SignatureID", "Name", "Severity")
MOVES = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")
# Surrogates are no UTF-8: in an event there are none.
TEXTS = st.text(st.characters(codec="utf-8")) | st.text("\\|= \n\rab\x1b")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return collect(tmp_path_factory.mktemp("state"))


def denied(detail: str) -> Event:
    body = denied_to_json(Denied(wall=Wall.SYSCALL, name=detail[:200], detail=detail, rule=detail))
    entry = Entry(5, "ab" * 32, 1_700_000_000_123_456_789, Kind.DENIED, "call-1", 3, body)
    return Cef(SOURCE).encode(entry, None, HEAD)[0]


def parse(line: str) -> dict[str, str]:
    """Read a line as the format says, and nothing more leniently."""
    assert line.startswith("CEF:0|")
    pattern = re.compile(r"((?:[^|\\]|\\[|\\])*)\|")
    header, at = [], len("CEF:0|")
    for _ in HEADER:
        found = pattern.match(line, at)
        assert found is not None
        header.append(re.sub(r"\\([\\|])", r"\1", found[1]))
        at = found.end()
    told = dict(zip(HEADER, header, strict=True))
    keys = list(re.finditer(r" (\w+)=", line[at:]))
    for key, after in zip(keys, [*keys[1:], None], strict=True):
        value = line[at:][key.end() : after.start() if after else None]
        assert not re.search(r"(?<!\\)(?:\\\\)*=", value)
        told[key[1]] = re.sub(
            r"\\([\\=nr])", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), value
        )
    return told


def visible(text: str) -> str:
    return MOVES.sub(lambda m: m[0] if m[0] in "\n\r" else f"\\u{ord(m[0]):04x}", text)


def test_every_event_of_ocsf_is_a_line(pairs: Pairs) -> None:
    cef, ocsf = Cef(SOURCE), Ocsf(SOURCE)
    for entry, opening in pairs:
        lines, events = cef.encode(entry, opening, HEAD), ocsf.encode(entry, opening, HEAD)
        for line, event in zip(lines, events, strict=True):
            assert (line.uid, line.index, line.last) == (event.uid, event.index, event.last)
            wanted, told = json.loads(event.data), parse(line.data.decode())
            assert told["externalId"] == event.uid
            assert told["SignatureID"] == str(wanted["type_uid"])
            assert told["msg"] == visible(wanted["message"])
            assert told["cs6"] == entry.leaf
            assert told["cn1"] == str(entry.index)
            assert told.get("act") == wanted.get("disposition")
            if entry.call:
                assert (told["cs1Label"], told["cs1"]) == ("call", entry.call)
            body = wanted["unmapped"]["stockade"].get("body")
            assert json.loads(told.get("stockadeBody", "null")) == body


def test_another_parser_reads_every_field_back(pairs: Pairs, tmp_path: Path) -> None:
    cef = Cef(SOURCE)
    lines = [event.data for pair in pairs for event in cef.encode(*pair, HEAD)]
    lines += [denied(text).data for text in (HOSTILE, "a|b\\", "x=y z=1", " lead", "\\n", "\\\n=|")]
    chance = random.Random(7)
    lines += [
        denied("".join(chance.choices('ab=|\\ \n\r\t\x1b,"é', k=20))).data for _ in range(500)
    ]
    rules = tmp_path / "rules"
    rules.write_text("version=2\nrule=:%f:cef%\n")
    done = subprocess.run(
        ["lognormalizer", "-r", rules, "-e", "json"], input=b"\n".join(lines) + b"\n",
        capture_output=True, check=True,
    )  # fmt: skip
    answers = done.stdout.splitlines()
    assert len(answers) == len(lines)
    for line, answer in zip(lines, answers, strict=True):
        read: dict[str, Any] = json.loads(answer)["f"]
        extensions = read.pop("Extensions")
        assert {**read, **extensions} == parse(line.decode())


@settings(max_examples=200)
@given(TEXTS)
def test_no_text_forges_a_field_or_a_line(text: str) -> None:
    data = denied(text).data.decode()
    assert not MOVES.search(data)
    assert len(data.splitlines()) == 1
    clean = parse(denied("x").data.decode())
    told = parse(data)
    assert told.keys() <= clean.keys()
    assert told.get("reason", "") == visible(text[:200])


@pytest.mark.parametrize(
    ("text", "header", "extension"),
    [
        ("a|b", "a\\|b", "a|b"),
        ("a\\b", "a\\\\b", "a\\\\b"),
        ("a=b", "a=b", "a\\=b"),
        ("a\nb\r", "a\\\\u000ab\\\\u000d", "a\\nb\\r"),
        ("\x1b[1m\x9b", "\\\\u001b[1m\\\\u009b", "\\\\u001b[1m\\\\u009b"),
    ],
)
def test_escapes(text: str, header: str, extension: str) -> None:
    assert (in_header(text), in_extension(text)) == (header, extension)
