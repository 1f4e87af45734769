"""The schema is closed, errors point at the character, and every key does something."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from supervisor.api import config
from supervisor.api.config import Configuration
from supervisor.audit.retention import RetainPolicy
from supervisor.audit.signers import FileSource, TokenSource
from supervisor.audit.witness import CommandWitness, FileWitness
from supervisor.errors import ProfileError
from supervisor.sandbox.secrets import SecretSource
from tests.support.records import RECIPIENT

FULL = """\
listen:
  - unix:///run/stockade/stockade.sock
  - tcp: 127.0.0.1:7443
    tls: {cert: /etc/stockade/cert.pem, key: /etc/stockade/key.pem, client_ca: /etc/stockade/ca.pem}
socket: {mode: 0600, group: agents}
state: /var/lib/stockade
profiles: [/etc/stockade/profiles]
callers:
  - {name: root, uid: 0, profiles: ["*"], calls: all, audit: all, holds: true, erase: own,
     witness: true, exports: see}
  - {name: agents, gid: 900, profiles: [python, shell]}
  - {name: remote, san: agent.example.com, profiles: [python], audit: own}
  - {name: legacy, cn: agent-7, profiles: [python]}
limits:
  calls: 32
  calls_per_caller: 8
  connections: 16
  message_size: 8MiB
  blob_size: 1GiB
  unary_deadline: 5s
  keepalive: 20s
  drain_grace: 2m
egress: {resolver: [192.0.2.53, "[2001:db8::53]:5353"], ca: /etc/ca.pem}
secrets:
  github: {file: /etc/stockade/github}
  tracker: {credential: tracker}
  vault: {command: [/bin/get, team]}
record:
  origin: log.example.com/host-1
  key: {pkcs11: {module: /lib/hsm.so, token: log, key: host-1, pin: {file: /etc/stockade/pin}}}
  retain: {age: 90d, size: 50GiB, exported_by: [siem]}
  recipients: [RECIPIENT]
  identity: {credential: reader}
  redact: {engine: hyperscan}
  watermark: {soft: 20GiB, hard: 7%}
witnesses:
  - file: /mnt/heads
  - {command: [/bin/keep, here]}
  - {stockade: "witness.example.com:7443", tls: {cert: /a.pem, key: /b.pem, ca: /c.pem}}
witness_for:
  - origin: log.example.com/host-2
    key: log.example.com/host-2+2b49bf3d+AXMwCHH0TBaOfJSd4sdQ5gwsm7j/UwAXxaJnI06ctNuO
metrics: {listen: "127.0.0.1:9464"}
console: {listen: "127.0.0.1:7480"}
sinks:
  archive: {type: file, path: /var/log/events}
""".replace("RECIPIENT", RECIPIENT)


def load(tmp_path: Path, text: str) -> Configuration:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return config.load(path)


def problem(tmp_path: Path, text: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        load(tmp_path, text)
    assert caught.value.reason == "CONFIG_INVALID"
    return caught.value


def test_all_of_it(tmp_path: Path) -> None:
    found = load(tmp_path, FULL)
    assert found.listen[0].unix == "/run/stockade/stockade.sock"
    assert found.listen[1].tls is not None
    assert found.socket.mode_bits == 0o600
    assert not found.socket.group_is_default
    assert found.limits.message_size == 8 << 20
    assert found.limits.drain_grace == 120.0
    assert [entry.identity for entry in found.callers] == [
        ("uid", 0), ("gid", 900), ("san", "agent.example.com"), ("cn", "agent-7"),
    ]  # fmt: skip


def test_egress_and_secrets(tmp_path: Path) -> None:
    found = load(tmp_path, FULL)
    assert found.egress.resolvers == (("192.0.2.53", 53), ("2001:db8::53", 5353))
    assert [entry.witness for entry in found.witnesses] == [
        FileWitness(Path("/mnt/heads")),
        CommandWitness(("/bin/keep", "here")),
        None,
    ]
    assert found.witnesses[2].stockade == "witness.example.com:7443"
    assert [entry.verifier.name for entry in found.witness_for] == ["log.example.com/host-2"]
    assert found.egress.ca == "/etc/ca.pem"
    secrets = found.secrets_with(tmp_path)
    assert secrets.credentials == tmp_path
    assert secrets.sources == {
        "github": SecretSource(file="/etc/stockade/github"),
        "tracker": SecretSource(credential="tracker"),
        "vault": SecretSource(command=("/bin/get", "team")),
    }
    assert (Configuration().egress.resolvers, Configuration().egress.ca) == ((), None)


LABEL = "t"
PKCS11 = f"module: /m.so, token: {LABEL}, key: k"


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("file: /a", FileSource(file="/a")),
        ("credential: a", FileSource(credential="a")),
        (
            f"pkcs11: {{{PKCS11}, pin: {{credential: p}}}}",
            TokenSource(module="/m.so", token=LABEL, key="k", pin=FileSource(credential="p")),
        ),
    ],
)
def test_the_logs_key(key: str, source: FileSource | TokenSource, tmp_path: Path) -> None:
    record = load(tmp_path, f"record: {{origin: log.example.com, key: {{{key}}}}}\n").record
    assert record is not None
    assert record.key is not None
    assert (record.origin, record.key.source) == ("log.example.com", source)
    assert Configuration().record is None


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("age: 90d, exported_by: []", RetainPolicy(age_ns=90 * 86_400 * 10**9)),
        ("age: 36h, exported_by: []", RetainPolicy(age_ns=36 * 3600 * 10**9)),
        (
            "size: 1GiB, exported_by: [siem, cold, siem]",
            RetainPolicy(size_bytes=1 << 30, exported_by=("siem", "cold")),
        ),
    ],
)
def test_what_is_kept(text: str, policy: RetainPolicy, tmp_path: Path) -> None:
    record = load(tmp_path, f"record: {{retain: {{{text}}}}}\n").record
    assert record is not None
    assert record.retain is not None
    assert (record.retain.policy, record.key) == (policy, None)


def test_who_exports_has_to_be_said(tmp_path: Path) -> None:
    message = problem(tmp_path, "record: {retain: {age: 90d}}\n").message
    assert "exported_by: what has to be past it beside sinks:, or [] for none" in message


def test_who_reads_the_content(tmp_path: Path) -> None:
    record = load(tmp_path, FULL).record
    assert record is not None
    assert record.recipients == [RECIPIENT]
    assert record.identity is not None
    assert record.identity.source == SecretSource(credential="reader")
    alone = load(tmp_path, f"record: {{recipients: [{RECIPIENT}]}}\n").record
    assert alone is not None
    assert (alone.origin, alone.key, alone.identity) == (None, None, None)
    assert load(tmp_path, FULL).callers[0].erase == "own"
    assert load(tmp_path, FULL).callers[1].erase == "none"


def test_exports_are_granted_by_name(tmp_path: Path) -> None:
    assert [entry.exports for entry in load(tmp_path, FULL).callers[:2]] == ["see", "none"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("recipients: []", "at least 1"),
        ("recipients: [age1nobody]", "no age recipient"),
        (f"recipients: [{RECIPIENT}, {RECIPIENT}]", "stands twice"),
        ("origin: log.example.com", "belong together"),
        ("key: {file: /a}", "belong together"),
        ("identity: {file: /a, credential: b}", "exactly one"),
        ("identity: {file: a}", "absolute"),
    ],
)
def test_who_cannot_read_the_content(record: str, said: str, tmp_path: Path) -> None:
    assert said in str(problem(tmp_path, f"record: {{{record}}}\n"))


def test_the_example_names_every_key() -> None:
    text = FULL.replace("tcp:", "tcp: ").replace("unix://", "unix: ")
    for model in models(Configuration):
        for key in model.model_fields:
            assert re.search(rf"\b{key}:", text), key


OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


def test_the_documented_example_loads_and_names_every_key(tmp_path: Path) -> None:
    text, *_ = re.findall(r"```yaml\n(.*?)```", OPERATIONS.read_text(), re.S)
    found = load(tmp_path, text)
    for model in models(Configuration):
        for key in model.model_fields:
            assert re.search(rf"^[ {{-]*(.*[{{ ])?{key}:", uncommented(text), re.M), key
    # What is said to be a default is one.
    default = Configuration()
    shared = {"calls_per_caller": found.limits.calls_per_caller}
    assert found.limits == default.limits.model_copy(update=shared)
    assert (found.state, found.socket.mode, found.socket.group) == (
        default.state, default.socket.mode, default.socket.group,
    )  # fmt: skip
    assert found.listen[0] == default.listen[0]


def uncommented(text: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", text, flags=re.M)


def models(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [model, *(kind for kind in vars(config).values() if is_model(kind))]


def is_model(kind: Any) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, BaseModel)
        and kind.__module__ == config.__name__
    )


def test_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "none.yaml")
    found = config.load(None)
    assert [listener.unix for listener in found.listen] == ["/run/stockade/stockade.sock"]
    (entry,) = found.callers
    assert (entry.identity, entry.profiles, entry.calls, entry.audit) == (
        ("uid", os.getuid()), ["*"], "all", "all",
    )  # fmt: skip
    assert found.metrics is None
    assert found.socket.group_is_default
    assert found.socket.mode_bits == 0o660


def test_the_usual_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("state: /srv/stockade\n")
    monkeypatch.setattr(config, "DEFAULT_PATH", path)
    assert config.load(None).state == "/srv/stockade"


def test_a_named_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        config.load(tmp_path / "none.yaml")
    assert caught.value.reason == "CONFIG_MISSING"


CALLER = "callers:\n  - {name: a, uid: 1, profiles: [p], %s}\n"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("state: /x\nlisten_to: []\n", 2, 1),
        ("limits: {calls: 0}\n", 1, 17),
        ("limits: {calls: many}\n", 1, 17),
        ("limits: {message_size: 16}\n", 1, 24),
        ("limits: {message_size: 16MB}\n", 1, 24),
        ("limits: {message_size: 1KiB}\n", 1, 24),
        ("limits: {unary_deadline: 0s}\n", 1, 26),
        ("limits: {keepalive: 5}\n", 1, 21),
        ("limits: {calls: 4, calls_per_caller: 5}\n", 1, 9),
        ("socket: {mode: 0666}\n", 1, 9),
        ("socket: {mode: 0661}\n", 1, 9),
        ("socket: {mode: rw}\n", 1, 16),
        ("metrics: {listen: 0.0.0.0:9464}\n", 1, 10),
        ("metrics: {listen: 192.0.2.1:9464}\n", 1, 10),
        ("metrics: {listen: 127.0.0.1}\n", 1, 10),
        ("metrics: {}\n", 1, 10),
        ("egress: {resolvers: []}\n", 1, 10),
        ("witnesses: [{}]\n", 1, 13),
        ("witnesses: [{file: heads}]\n", 1, 13),
        ("witnesses: [{command: [keep]}]\n", 1, 13),
        ("witnesses: [{file: /a, command: [/b]}]\n", 1, 13),
        ("egress: {resolver: []}\n", 1, 20),
        ("egress: {resolver: [example.com]}\n", 1, 20),
        ("egress: {resolver: ['dns.example.com:53']}\n", 1, 20),
        ("egress: {resolver: ['192.0.2.1:0']}\n", 1, 20),
        ("egress: {resolver: ['192.0.2.1:99999']}\n", 1, 20),
        ("egress: {resolver: 192.0.2.1}\n", 1, 20),
        ("egress: {ca: ca.pem}\n", 1, 14),
        ("secrets: {GitHub: {file: /a}}\n", 1, 10),
        ("secrets: {a: /a}\n", 1, 14),
        ("secrets: {a: {}}\n", 1, 14),
        ("secrets: {a: {value: x}}\n", 1, 15),
        ("secrets: {a: {file: /a, credential: b}}\n", 1, 14),
        ("secrets: {a: {file: a}}\n", 1, 14),
        ("secrets: {a: {credential: ../b}}\n", 1, 27),
        ("secrets: {a: {credential: ''}}\n", 1, 27),
        ("secrets: {a: {command: []}}\n", 1, 24),
        ("secrets: {a: {command: [get, x]}}\n", 1, 14),
        ("secrets: {a: {command: /bin/get}}\n", 1, 24),
        ("record: {key: {file: /a}}\n", 1, 9),
        ("record: {origin: a}\n", 1, 9),
        ("record: {}\n", 1, 9),
        ("record: {retain: {}}\n", 1, 18),
        ("record: {redact: {}}\n", 1, 18),
        ("record: {redact: {engine: vectorscan}}\n", 1, 27),
        ("record: {retain: {age: 1d}}\n", 1, 18),
        ("record: {retain: {size: 1GiB}}\n", 1, 18),
        ("record: {retain: {exported_by: []}}\n", 1, 18),
        ("record: {retain: {age: 59m, exported_by: []}}\n", 1, 24),
        ("record: {retain: {age: 7w, exported_by: []}}\n", 1, 24),
        ("record: {retain: {size: 0B, exported_by: []}}\n", 1, 25),
        ("record: {retain: {age: 1d, exported_by: [../x]}}\n", 1, 42),
        ("record: {origin: 'a b', key: {file: /a}}\n", 1, 18),
        ("record: {origin: a, key: {}}\n", 1, 26),
        ("record: {origin: a, key: {file: /a, credential: b}}\n", 1, 26),
        ("record: {origin: a, key: {file: a}}\n", 1, 26),
        ("record: {origin: a, key: {credential: ../b}}\n", 1, 39),
        (f"record: {{origin: a, key: {{pkcs11: {{{PKCS11}}}}}}}\n", 1, 35),
        (f"record: {{origin: a, key: {{pkcs11: {{{PKCS11}, pin: {{}}}}}}}}\n", 1, 74),
        (f"record: {{origin: a, key: {{pkcs11: {{{PKCS11}, pin: '1234'}}}}}}\n", 1, 74),
        (f"record: {{origin: a, key: {{pkcs11: {{{PKCS11}, pin: {{file: a}}}}}}}}\n", 1, 74),
        ("record: {origin: a, key: {pkcs11: {module: m.so}}}\n", 1, 44),
        ("witnesses: [{stockade: 'a:1'}]\n", 1, 13),
        ("witnesses: [{stockade: nowhere}]\n", 1, 13),
        ("witnesses: [{stockade: 'unix:///a', file: /a}]\n", 1, 13),
        ("witnesses: [{file: /a, tls: {cert: a, key: b, ca: c}}]\n", 1, 13),
        ("witness_for: [{origin: a, key: b}]\n", 1, 15),
        ("listen: []\n", 1, 9),
        ("listen: ['unix:///a', 'unix:///b', 'unix:///a']\n", 1, 9),
        ("listen: [/run/x.sock]\n", 1, 10),
        ("listen: [unix://run/x.sock]\n", 1, 10),
        ("listen: [{unix: x.sock}]\n", 1, 10),
        ("state: relative\n", 1, 8),
        ("listen: ['tcp://127.0.0.1:1']\n", 1, 10),
        (f"listen: ['unix:///{'x' * 107}']\n", 1, 10),
        ("listen: [{tcp: '127.0.0.1:7443'}]\n", 1, 10),
        ("listen: [{tcp: '127.0.0.1:7443', tls: {cert: a, key: b}}]\n", 1, 39),
        ("listen: [{tcp: '127.0.0.1', tls: {cert: a, key: b, client_ca: c}}]\n", 1, 10),
        ("listen: [{tcp: '[::1]:99999', tls: {cert: a, key: b, client_ca: c}}]\n", 1, 10),
        ("callers: []\n", 1, 10),
        ("callers:\n  - {name: a, profiles: [p]}\n", 2, 5),
        ("callers:\n  - {name: a, uid: 1, gid: 1, profiles: [p]}\n", 2, 5),
        ("callers:\n  - {name: a, uid: -1, profiles: [p]}\n", 2, 20),
        ("callers:\n  - {name: a, uid: 4294967295, profiles: [p]}\n", 2, 20),
        ("callers:\n  - {name: a, uid: 1}\n", 2, 5),
        ("callers:\n  - {name: A b, uid: 1, profiles: [p]}\n", 2, 12),
        (CALLER % "calls: some", 2, 45),
        (CALLER % "audit: some", 2, 45),
        (CALLER % "holds: all", 2, 45),
        (CALLER % "exports: all", 2, 47),
        (CALLER % "grant: all", 2, 38),
        (
            "callers:\n  - {name: a, uid: 1, profiles: [p]}\n"
            "  - {name: b, uid: 1, profiles: [p]}\n",
            2, 3,
        ),
        (
            "callers:\n  - {name: a, uid: 1, profiles: [p]}\n"
            "  - {name: a, uid: 2, profiles: [p]}\n",
            2, 3,
        ),
    ],
)  # fmt: skip
def test_errors_point(text: str, line: int, column: int, tmp_path: Path) -> None:
    message = problem(tmp_path, text).message
    assert f"config.yaml:{line}:{column}: " in message
    assert "^" in message or text.startswith(("secrets:", "record:"))  # may hold one


TLS = "{tcp: '127.0.0.1:0', tls: {cert: a, key: b, client_ca: c}}"


@pytest.mark.parametrize(
    "text",
    [
        "callers: [{name: a, san: a.example.com, profiles: [p]}]\n",
        "callers: [{name: a, cn: a, profiles: [p]}]\n",
        f"listen: [{TLS}]\ncallers: [{{name: a, uid: 1, profiles: [p]}}]\n",
        f"listen: [{TLS}]\ncallers: [{{name: a, gid: 1, profiles: [p]}}]\n",
    ],
)
def test_a_caller_that_nothing_can_match(text: str, tmp_path: Path) -> None:
    assert "matches nothing" in problem(tmp_path, text).message


@pytest.mark.parametrize("text", ["{key: s3cr3t}", "{key: {value: s3cr3t}}"])
def test_a_secret_in_the_place_of_its_source_is_not_shown(text: str, tmp_path: Path) -> None:
    error = problem(tmp_path, f"secrets: {text}\n")
    assert "secrets.key" in error.message
    assert "s3cr3t" not in f"{error.message} {error.hint}"


@pytest.mark.parametrize("text", ["s3cr3t", "{value: s3cr3t}"])
def test_a_pin_in_the_place_of_its_source_is_not_shown(text: str, tmp_path: Path) -> None:
    key = f"key: {{pkcs11: {{{PKCS11}, pin: {text}}}}}"
    error = problem(tmp_path, f"record: {{origin: a, {key}}}\n")
    assert "record.key.pkcs11.pin" in error.message
    assert "s3cr3t" not in f"{error.message} {error.hint}"


def test_the_default_caller_is_of_the_unix_socket(tmp_path: Path) -> None:
    assert "callers: is needed" in problem(tmp_path, f"listen: [{TLS}]\n").message


def test_an_auditor_needs_no_profile(tmp_path: Path) -> None:
    (entry,) = load(tmp_path, "callers: [{name: a, uid: 1, profiles: [], audit: all}]\n").callers
    assert entry.profiles == []


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n"])
def test_an_empty_file_says_what_to_write(text: str, tmp_path: Path) -> None:
    message = problem(tmp_path, text).message
    assert "config.yaml:1:1: is empty" in message
    assert "callers:" in message


def test_errors_keep_their_line_breaks(tmp_path: Path) -> None:
    problems = problem(tmp_path, "a: 1\nb: 2\n").message
    assert len(re.findall(r"config\.yaml:\d:1: unknown key", problems)) == 2


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_split_host_port(text: str, address: tuple[str, int]) -> None:
    assert config.split_host_port(text) == address


@pytest.mark.parametrize("text", ["", ":1", "::1:1", "a:", "a:b", "a:65536", "[::1]", "a b:1"])
def test_split_host_port_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        config.split_host_port(text)
