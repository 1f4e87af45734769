"""The effective profile: base units, canonical JSON, a digest that everything enforced moves."""

from __future__ import annotations

import hashlib
import json

import pytest

from supervisor.profile import syscalls
from supervisor.profile.arguments import equal
from supervisor.profile.model import (
    Capture,
    EffectiveProfile,
    Image,
    ImageKind,
    Limits,
    ReadPath,
    RecordPolicy,
    Redact,
    WritableMount,
)
from supervisor.profile.resolve import parse_capture, parse_image

from .conftest import COMPLETE, MakeSet

REACHES = COMPLETE.replace('"@local"', '"@default"').replace("16MiB}", "16MiB, egress: 1MiB}")
REACHES = REACHES.replace(
    "syscalls:",
    "egress:\n"
    "  - {host: a.example.com, port: [443, 80], inspect: http, private: true, methods: [GET], "
    "paths: [/a], why: one}\n"
    '  - {cidr: 10.0.0.0/8, port: "5432-5433", why: two}\n'
    "secrets:\n"
    "  - {name: s, header: X-Key, host: a.example.com, env: S, why: three}\n"
    "syscalls:",
)
REACH_CHANGES = {
    "budget": ("egress: 1MiB", "egress: 2MiB"),
    "host": ("{host: a.example.com", '{host: "*.example.com"'),
    "ports": ("[443, 80]", "[444, 80]"),
    "inspect": ("inspect: http", "inspect: tls-terminate"),
    "private": ("private: true", "private: false"),
    "methods": ("[GET]", "[GET, PUT]"),
    "paths": ("[/a]", '["/a*"]'),
    "reason of a place": ("why: one", "why: other"),
    "cidr": ("10.0.0.0/8", "10.0.0.0/9"),
    "range": ("5432-5433", "5432-5434"),
    "secret": ("name: s", "name: t"),
    "header": ("X-Key", "X-Other"),
    "env of a secret": ("env: S", "env: T"),
    "reason of a secret": ("why: three", "why: four"),
}

CHANGES = {
    "image": ("image: host", "image: dir:/srv/image"),
    "oci": ("image: host", f"image: oci:x@sha256:{'0' * 64}"),
    "read": ("files:\n", "files:\n  read: [{path: /srv, why: x}]\n"),
    "mount": ("size: 64MiB}]", "size: 64MiB}, {path: /tmp, size: 1MiB}]"),
    "size": ("size: 64MiB", "size: 65MiB"),
    "exec": ("size: 64MiB", "size: 64MiB, exec: true, why: x"),
    "set": ('["@local"]', '["@default"]'),
    "single": ('["@local"]', '["@local", {name: ptrace, why: x}]'),
    "kill": ('["@local"]', '["@local"], kill: [ptrace]'),
    "watch": ('["@local"]', '["@local"], watch: [execve]'),
    "mode": ("stderr: full}", "stderr: full}\nmode: observe"),
    "variable": ("LANG: C.UTF-8", "LANG: C"),
    "new variable": ("LANG: C.UTF-8", 'LANG: C.UTF-8, X: ""'),
    "wall": ("wall: 60s", "wall: 61s"),
    "cpu": ("cpu: 30s", "cpu: 31s"),
    "memory": ("memory: 512MiB", "memory: 513MiB"),
    "pids": ("pids: 64", "pids: 65"),
    "files": ("files: 256", "files: 257"),
    "output": ("output: 16MiB", "output: 17MiB"),
    "stdin": ("stdin: full", "stdin: digest"),
    "stdout": ("stdout: full", "stdout: 1MiB"),
    "stderr": ("stderr: full", "stderr: 2MiB"),
    "require": ("image: host", "require: [guard]\nimage: host"),
    "why": ("The tests begin here.", "The tests begin there."),
}


def test_values_are_in_base_units(make_set: MakeSet) -> None:
    profile = make_set().effective("base")
    assert (profile.name, profile.lineage, profile.runtime, profile.mode) == (
        "base", ("base",), "runc", "enforce",
    )  # fmt: skip
    assert profile.image == Image(kind=ImageKind.HOST)
    assert profile.write == (WritableMount(path="/work", size_bytes=64 << 20),)
    assert profile.limits == Limits(
        wall_s=60.0, cpu_s=30.0, memory_bytes=512 << 20, pids=64, files=256, output_bytes=16 << 20
    )
    full = Capture(mode="full")
    assert profile.record == RecordPolicy(stdin=full, stdout=full, stderr=full)
    assert profile.syscalls.allow == syscalls.members("@local")
    assert profile.syscalls.sets == syscalls.expand_sets(["@local"])
    assert dict(profile.env) == {"LANG": "C.UTF-8"}


@pytest.mark.parametrize(
    ("written", "redact"),
    [("secrets", Redact()), ("pii", Redact(pii=True)), ("{off: x y}", Redact(off="x y"))],
)
def test_what_is_redacted(make_set: MakeSet, written: str, redact: Redact) -> None:
    child = f"profile: child\nextends: base\nwhy: x\nrecord: {{redact: {written}}}\n"
    profile = make_set(child=child).effective("child")
    assert profile.record.redact == redact
    canonical = json.loads(profile.canonical)
    assert canonical["record"]["redact"] == {"pii": redact.pii, "off": redact.off}
    assert [line.value for line in profile.lines if line.path == "record.redact"] == [
        redact.written()
    ]


def test_paths_are_sorted_and_reasons_kept(make_set: MakeSet) -> None:
    read = "read: [{path: /srv/b, why: second}, {path: /srv/a, why: first}]"
    profile = make_set(base=COMPLETE.replace("files:\n", f"files:\n  {read}\n")).effective("base")
    assert profile.read == (
        ReadPath(path="/srv/a", why="first"),
        ReadPath(path="/srv/b", why="second"),
    )


def test_the_digest_is_over_the_canonical_json(make_set: MakeSet) -> None:
    profile = make_set().effective("base")
    assert profile.digest == hashlib.sha256(profile.canonical).hexdigest()
    assert json.loads(profile.canonical)["limits"]["memory_bytes"] == 512 << 20


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_moves_with(make_set: MakeSet, what: str) -> None:
    old, new = CHANGES[what]
    assert COMPLETE.count(old) == 1
    before = make_set().effective("base")
    after = make_set(base=COMPLETE.replace(old, new)).effective("base")
    assert before.digest != after.digest


@pytest.mark.parametrize("what", REACH_CHANGES)
def test_the_digest_moves_with_what_can_be_reached(make_set: MakeSet, what: str) -> None:
    old, new = REACH_CHANGES[what]
    assert REACHES.count(old) == 1
    before = make_set(base=REACHES).effective("base")
    after = make_set(base=REACHES.replace(old, new)).effective("base")
    assert before.digest != after.digest


def test_what_can_be_reached(make_set: MakeSet) -> None:
    profile = make_set(base=REACHES).effective("base")
    assert [rule.name for rule in profile.egress] == [
        "10.0.0.0/8:5432-5433", "a.example.com:80,443",
    ]  # fmt: skip
    assert [(use.name, use.env) for use in profile.secrets] == [("s", "S")]
    assert profile.limits.egress_bytes == 1 << 20
    origins = {line.path: (line.value, f"{line.file}:{line.line}") for line in profile.lines}
    assert origins["egress[0]"] == (
        {"cidr": "10.0.0.0/8", "port": "5432-5433", "why": "two"}, "base.yaml:8",
    )  # fmt: skip
    assert origins["egress[1]"] == (
        {
            "host": "a.example.com", "port": [80, 443], "inspect": "http", "private": True,
            "methods": ["GET"], "paths": ["/a"], "why": "one",
        },
        "base.yaml:7",
    )  # fmt: skip
    assert origins["secrets[0]"] == (
        {"name": "s", "header": "X-Key", "host": "a.example.com", "env": "S", "why": "three"},
        "base.yaml:10",
    )  # fmt: skip
    assert origins["limits.egress"] == ("1MiB", "base.yaml:13")


def test_the_digest_moves_with_a_dropped_call(make_set: MakeSet) -> None:
    start = "profile: child\nextends: base\n"
    plain = make_set(child=start + "why: x\n").effective("child")
    less = make_set(child=start + "drop: {syscalls: {allow: [mknod]}}\nwhy: x\n").effective("child")
    assert less.syscalls.allow == plain.syscalls.allow - {"mknod"}
    assert less.digest != plain.digest


def test_the_digest_moves_with_the_rules_on_arguments(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_set().effective("base")
    looser = {**syscalls.CONDITIONS, "personality": ((equal(0, 0),),)}
    monkeypatch.setattr(syscalls, "CONDITIONS", looser)
    after = make_set().effective("base")
    assert before.digest != after.digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("wall: 60s", "wall: 60000ms"),
        ("memory: 512MiB", "memory: 524288KiB"),
        ('["@local"]', '["@local", "@ipc"]'),
        ("syscalls:", "egress: []\nsecrets: []\nsyscalls:"),
        ("profile: base\n", "profile: base\n# a comment\n"),
    ],
)
def test_the_digest_stays_where_only_the_writing_differs(
    make_set: MakeSet, one: str, other: str
) -> None:
    same = make_set(base=COMPLETE.replace(one, other)).effective("base")
    assert same.digest == make_set().effective("base").digest


def test_every_enforced_field_is_in_the_canonical_json(make_set: MakeSet) -> None:
    fields = set(EffectiveProfile.__dataclass_fields__)
    derived = {"lineage", "canonical", "digest", "lines"}
    written = set(json.loads(make_set().effective("base").canonical))
    assert written - {"version", "files"} == fields - derived - {"read", "write"}


def test_what_is_watched_is_what_is_allowed_of_it(make_set: MakeSet) -> None:
    text = COMPLETE.replace('["@local"]', '["@local"], watch: ["@network-io", getppid]')
    policy = make_set(base=text).effective("base").syscalls
    assert policy.watch == (syscalls.members("@network-io") & syscalls.members("@local")) | {
        "getppid"
    }
    assert policy.allow == syscalls.members("@local")
    written = json.loads(make_set(base=text).effective("base").canonical)["syscalls"]
    assert written["watch"] == sorted(policy.watch)
    assert "written" not in written


OBSERVING = "profile: child\nextends: base\n{}why: x\n{}mode: observe\n"


def test_observing_lets_through_what_any_set_holds_and_watches_all(make_set: MakeSet) -> None:
    more = (
        "syscalls: {allow: [{name: kcmp, why: x}], kill: [ptrace, inotify_init], watch: [read]}\n"
    )
    profile = make_set(
        child=OBSERVING.format("drop: {syscalls: {allow: [mknod]}}\n", more)
    ).effective("child")
    policy, local = profile.syscalls, syscalls.members("@local") - {"mknod"} | {"kcmp"}
    every = frozenset().union(*(entry.names for entry in syscalls.SETS.values()))
    assert policy.allow == every - {"mknod", "inotify_init"} | {"kcmp"}
    assert policy.watch == policy.allow
    assert policy.kill == {"ptrace", "inotify_init"}
    assert policy.sets == syscalls.elementary_sets()
    assert not policy.allow & (set(syscalls.BY_NAME_ONLY) - {"kcmp"})
    assert not policy.allow & set(syscalls.REFUSED)
    written = json.loads(profile.canonical)["syscalls"]
    assert written["written"]["allow"] == sorted(local)
    assert written["written"]["sets"] == sorted(syscalls.expand_sets(["@local"]))
    assert written["allow"] == sorted(policy.allow)
    assert written["watch"] == ["read"]
    [line] = [line for line in profile.lines if line.path == "syscalls.allow"]
    assert (str(line.value)[:9], line.file, line.line) == ("every set", "child.yaml", 6)


def test_observing_is_never_inherited(make_set: MakeSet) -> None:
    profiles = make_set(
        child=OBSERVING.format("", ""), grandchild="profile: grandchild\nextends: child\nwhy: x\n"
    )
    assert profiles.effective("child").mode == "observe"
    heir = profiles.effective("grandchild")
    assert heir.mode == "enforce"
    assert heir.syscalls == profiles.effective("base").syscalls


def test_lines_say_where_each_value_comes_from(make_set: MakeSet) -> None:
    child = (
        "profile: child\nextends: base\nuse: [more]\ndrop: {syscalls: {allow: [mknod]}}\n"
        "why: A test.\nlimits: {pids: 65}\nmode: enforce\n"
    )
    fragment = (
        "fragment: more\nwhy: A test.\nrequire: [guard]\n"
        "files: {write: [{path: /tmp, size: 1MiB}]}\n"
    )
    lines = make_set(child=child, fragment_more=fragment).effective("child").lines
    origins = {line.path: (line.value, f"{line.file}:{line.line}") for line in lines}
    assert origins["profile"] == ("child", "child.yaml:1")
    assert origins["why"] == ("A test.", "child.yaml:5")
    assert origins["runtime"] == ("runc", ":0")
    assert origins["image"] == ("host", "base.yaml:3")
    assert origins["require[0]"] == ("guard", "fragments/more.yaml:3")
    assert origins["limits.pids"] == (65, "child.yaml:6")
    assert origins["limits.wall"] == ("60s", "base.yaml:8")
    assert origins["limits.memory"] == ("512MiB", "base.yaml:8")
    assert origins["files.write[0]"] == (
        {"path": "/tmp", "size": "1MiB", "exec": False}, "fragments/more.yaml:4",
    )  # fmt: skip
    assert origins["syscalls.allow[0]"] == ("@local", "base.yaml:6")
    assert origins["drop.syscalls.allow[0]"] == ("mknod", "child.yaml:4")
    assert origins["mode"] == ("enforce", "child.yaml:7")


def test_captures_and_images() -> None:
    assert parse_capture("8MiB") == Capture(mode="head", bytes_max=8 << 20)
    assert parse_capture("digest") == Capture(mode="digest")
    assert parse_image("dir:/x") == Image(kind=ImageKind.DIR, path="/x")
    assert parse_image(f"oci:a/b@sha256:{'c' * 64}") == Image(
        kind=ImageKind.OCI, name="a/b", digest="c" * 64
    )
