"""Sinks of the configuration: the documented ones load, each key does what is said of it, and what
is wrong is told with its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from supervisor.api import config, sink_config
from supervisor.api.sink_config import AnySink
from supervisor.api.sink_entry import SinkEntry
from supervisor.errors import ProfileError
from supervisor.export.build import SINKS
from supervisor.export.event import Source
from supervisor.export.formats.make import FORMATS

DOCUMENTED = Path(__file__).parents[3] / "docs" / "sinks.md"
ABOUT = Source(origin="log.example.com/a", host="host-1", version="1")
ENTRIES: tuple[type[SinkEntry], ...] = get_args(get_args(AnySink)[0])


def load(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return config.load(path).sinks


def one(tmp_path: Path, text: str) -> SinkEntry:
    entry: SinkEntry = load(tmp_path, f"sinks: {{a: {{{text}}}}}\n")["a"]
    return entry


def problem(tmp_path: Path, text: str) -> str:
    with pytest.raises(ProfileError) as caught:
        load(tmp_path, text)
    assert caught.value.reason == "CONFIG_INVALID"
    return str(caught.value)


def options(entry: SinkEntry) -> Any:
    return entry.options("a", lambda key: f"secret-of-{key}", ABOUT)


def test_there_is_an_entry_for_every_kind_and_format() -> None:
    kinds = {get_args(entry.model_fields["type"].annotation)[0] for entry in ENTRIES}
    assert kinds == set(SINKS)
    assert set(get_args(SinkEntry.model_fields["format"].annotation)) == set(FORMATS)


def test_the_documented_sinks_load_and_name_every_key(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCUMENTED.read_text(), re.S)
    found = load(tmp_path, text)
    assert {entry.type for entry in found.values()} == set(SINKS)
    plain = re.sub(r"(^|\s)#.*$", "", text, flags=re.M)
    for entry in ENTRIES:
        of_type = plain  # a key that several types have is documented once
        for key in entry.model_fields:
            assert re.search(rf"^[ {{-]*(.*[{{ ])?{key}:", of_type, re.M), (entry, key)
    for key in sink_config.SinkTls.model_fields:
        assert re.search(rf"[ {{]{key}:", plain), key


def test_a_batch_has_the_bounds_that_it_was_given(tmp_path: Path) -> None:
    entry = one(tmp_path, "type: stdout, batch: 7, batch_size: 2KiB, linger: 3s, format: cef")
    assert (entry.batch, entry.batch_size, entry.linger, entry.format) == (7, 2048, 3.0, "cef")


SYSLOG = 'type: syslog, address: "siem.example.com:6514"'


def test_syslog_has_all_that_is_said(tmp_path: Path) -> None:
    tls = "tls: {ca: /ca.pem, cert: /c.pem, key: /k.pem, name: other.example.com}"
    entry = one(
        tmp_path, f"{SYSLOG}, {tls}, facility: local3, bom: true, event_size: 2KiB, stall: 5s"
    )
    found = options(entry)
    assert (found.peer.host, found.peer.port, found.peer.stall_s) == ("siem.example.com", 6514, 5.0)
    assert found.peer.tls.name == "other.example.com"
    assert [str(path) for path in (found.peer.tls.ca, found.peer.tls.certificate)] == [
        "/ca.pem", "/c.pem",
    ]  # fmt: skip
    assert (found.host, found.facility, found.bom) == ("host-1", 19, True)
    assert found.event_bytes_max == 2048
    assert entry.tls_files == ("/ca.pem", "/c.pem", "/k.pem")
    assert entry.tls_key == "/k.pem"
    assert options(one(tmp_path, f"{SYSLOG}, tls: {{ca: /a}}")).peer.tls.name == "siem.example.com"


def test_relp_has_its_window(tmp_path: Path) -> None:
    entry = one(tmp_path, 'type: relp, address: "[::1]:2514", plain_because: it is here, window: 9')
    found = options(entry)
    assert (found.peer.host, found.peer.port, found.window_events) == ("::1", 2514, 9)
    assert found.peer.tls is None
    assert entry.tls_files == ()


def test_a_file_is_rotated_as_it_says(tmp_path: Path) -> None:
    entry = one(tmp_path, "type: file, path: /var/log/x, rotate: 1MiB, keep: 3")
    found = options(entry)
    assert (str(found.path), found.rotate_bytes, found.keep) == ("/var/log/x", 1 << 20, 3)
    assert entry.writes == ("/var/log/x",)
    assert entry.needs_root
    assert not one(tmp_path, "type: stdout").needs_root


def test_journald_is_where_it_is_said(tmp_path: Path) -> None:
    assert str(options(one(tmp_path, "type: journald, socket: /j")).path) == "/j"


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ("{}", "1:12: sinks.a: the key 'type' is missing"),
        ("{type: pigeon}", "1:19: sinks.a.type: 'pigeon' is none of 'syslog'"),
        ("{type: syslgo}", "did you mean 'syslog'?"),
        ("{type: stdout, format: xml}", "sinks.a.format"),
        ("{type: stdout, batch: 0}", "sinks.a.batch"),
        ("{type: stdout, linger: 5}", "needs a unit"),
        ("{type: stdout, linge: 5s}", "did you mean 'linger'"),
        ("{type: file, path: here}", "not an absolute path"),
        ("{type: file, path: /a, rotate: 1MiB}", "rotate: and keep: belong together"),
        ("{type: journald, socket: here}", "not an absolute path"),
        ('{type: syslog, address: "siem.example.com:6514"}', "plain_because"),
        ('{type: syslog, address: "siem.example.com"}', "is not an address"),
        ('{type: relp, address: "a:0", plain_because: x}', "is no port"),
        ('{type: relp, address: "a:1", tls: {ca: c}}', "not an absolute path"),
        ('{type: relp, address: "a:1", tls: {cert: /c}}', "belong together"),
        ('{type: relp, address: "a:1", tls: {}, plain_because: x}', "no reason to have none"),
        ('{type: relp, address: "a:1", plain_because: x, facility: mail}', "is one of auth"),
    ],
)
def test_what_is_wrong_is_told(sink: str, said: str, tmp_path: Path) -> None:
    message = problem(tmp_path, f"sinks: {{a: {sink}}}\n")
    assert said in message
    assert "config.yaml:1:" in message


def test_names_are_names(tmp_path: Path) -> None:
    assert "is no name of a sink" in problem(tmp_path, "sinks: {A/b: {type: stdout}}\n")
    assert "a mapping of names" in problem(tmp_path, "sinks: [{type: stdout}]\n")
    many = ", ".join(f"s{number}: {{type: journald}}" for number in range(17))
    assert "at most 16" in problem(tmp_path, f"sinks: {{{many}}}\n")


def test_two_sinks_do_not_write_the_same(tmp_path: Path) -> None:
    file = "{type: file, path: /x}"
    assert "a and b write the same file" in problem(tmp_path, f"sinks: {{a: {file}, b: {file}}}\n")
    both = "sinks: {a: {type: stdout}, b: {type: stdout}}\n"
    assert "a and b write the same output" in problem(tmp_path, both)
