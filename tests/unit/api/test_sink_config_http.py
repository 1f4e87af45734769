"""Sinks of other services: what their entries say is what the sinks are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from supervisor.api.sink_config_http import CHANNELS
from supervisor.export.sinks.opensearch import ApiKey, BasicAuth
from supervisor.export.sinks.s3 import Lines, SecurityLake
from tests.unit.api.test_sink_config import ABOUT, one, options, problem

URL = 'url: "https://a.example.com:1"'
SOURCE = "{file: /s}"


def made(tmp_path: Path, text: str) -> Any:
    return options(one(tmp_path, text))


def test_splunk(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        f"type: splunk, {URL}, token: {SOURCE}, ack: 9s, index: i, sourcetype: t, gzip: true, "
        "stall: 4s",
    )
    assert (found.token, found.ack_s, found.index, found.sourcetype) == (
        b"secret-of-token", 9.0, "i", "t",
    )  # fmt: skip
    assert (found.packed, found.text, found.host, found.source) == (
        True, False, "host-1", ABOUT.origin,
    )  # fmt: skip
    assert found.endpoint.stall_s == 4.0
    assert found.channel.version == 5
    again = made(tmp_path, f"type: splunk, {URL}, token: {SOURCE}, format: cef")
    assert again.channel == found.channel != CHANNELS
    assert (again.text, again.sourcetype, again.ack_s, again.packed) == (
        True, "stockade:cef", None, False,
    )  # fmt: skip


def test_a_url_of_https_is_checked_by_the_hosts_authorities(tmp_path: Path) -> None:
    usual = one(tmp_path, f"type: splunk, {URL}, token: {SOURCE}")
    assert str(options(usual).endpoint.tls.ca) == "/etc/ssl/certs/ca-certificates.crt"
    assert usual.tls_files == ("/etc/ssl/certs/ca-certificates.crt",)
    own = one(tmp_path, f"type: splunk, {URL}, token: {SOURCE}, tls: {{ca: /ca.pem}}")
    assert str(options(own).endpoint.tls.ca) == "/ca.pem"
    plain = one(
        tmp_path, f"type: splunk, url: http://127.0.0.1, token: {SOURCE}, plain_because: here"
    )
    assert options(plain).endpoint.tls is None
    assert plain.tls_files == ()


def test_otlp(tmp_path: Path) -> None:
    found = made(
        tmp_path, f"type: otlp, {URL}, protocol: grpc, headers: {{x-who: {SOURCE}}}, gzip: true"
    )
    assert (found.grpc, found.packed, found.source) == (True, True, ABOUT)
    assert found.headers == {"x-who": b"secret-of-headers.x-who"}
    assert not made(tmp_path, f"type: otlp, {URL}, protocol: http").grpc


def test_traces(tmp_path: Path) -> None:
    base = f"type: traces, {URL}, protocol"
    found = made(tmp_path, f"{base}: http, headers: {{x-who: {SOURCE}}}, gzip: true, sample: 0.25")
    assert (found.grpc, found.packed, found.sample, found.source) == (False, True, 0.25, ABOUT)
    assert found.headers == {"x-who": b"secret-of-headers.x-who"}
    entry = one(tmp_path, f"{base}: grpc")
    assert (entry.format, options(entry).grpc, options(entry).sample) == ("spans", True, 1.0)


def test_opensearch(tmp_path: Path) -> None:
    base = f"type: opensearch, {URL}, index: logs"
    found = made(tmp_path, f"{base}, user: u, password: {SOURCE}, gzip: true")
    assert found.auth == BasicAuth(user="u", password=b"secret-of-password")
    assert (found.target, found.stamp, found.packed) == ("logs", True, True)
    assert made(tmp_path, f"{base}, api_key: {SOURCE}").auth == ApiKey(key=b"secret-of-api_key")
    assert made(tmp_path, base).auth is None
    assert not made(tmp_path, f"{base}, data_stream: false").stamp
    assert not made(tmp_path, f"{base}, format: ecs").stamp


KEY = "whsec_" + "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def test_a_webhook(tmp_path: Path) -> None:
    entry = one(tmp_path, f"type: webhook, {URL}, secret: [{SOURCE}, {SOURCE}], body_size: 2KiB")
    found = entry.options("a", lambda _: KEY, ABOUT)
    assert found.secrets == (bytes(range(32)),) * 2
    assert (found.single, found.body_bytes_max, found.content_type) == (
        False, 2048, "application/json",
    )  # fmt: skip
    assert list(entry.secrets) == ["secret[0]", "secret[1]"]
    single = one(tmp_path, f"type: webhook, {URL}, secret: {SOURCE}, single: true, format: cef")
    found = single.options("a", lambda _: KEY, ABOUT)
    assert (found.single, found.content_type) == (True, "text/plain; charset=utf-8")
    for wrong in ("hunter2", "whsec_%%%"):
        with pytest.raises(ValueError, match="whsec_ and 24 to 64 bytes") as caught:
            single.options("a", lambda _: wrong, ABOUT)  # noqa: B023
        assert wrong not in str(caught.value)


def test_kafka(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        'type: kafka, brokers: ["a.example.com:1", "b.example.com:2"], topic: t, tls: {ca: /c}, '
        f"sasl: {{mechanism: PLAIN, user: u, password: {SOURCE}}}, compression: lz4, "
        "message_size: 2MiB",
    )
    assert found.brokers == ("a.example.com:1", "b.example.com:2")
    assert (found.topic, found.key, str(found.tls.ca)) == ("t", ABOUT.origin, "/c")
    assert (found.sasl.mechanism, found.sasl.user) == ("PLAIN", "u")
    assert found.sasl.password == b"secret-of-sasl.password"
    assert (found.compression, found.message_bytes_max) == ("lz4", 2 << 20)


def test_s3(tmp_path: Path) -> None:
    base = f"type: s3, {URL}, region: r, bucket: b, key_id: k, secret: {SOURCE}"
    found = made(tmp_path, f"{base}, session_token: {SOURCE}, prefix: a/b")
    assert (found.region, found.bucket, found.key_id) == ("r", "b", "k")
    assert (found.secret, found.token) == (b"secret-of-secret", b"secret-of-session_token")
    assert found.layout == Lines(prefix="a/b")
    lake = made(tmp_path, f'{base}, security_lake: {{source: s, account: "1"}}')
    assert lake.layout == SecurityLake(source="s", region="r", account="1")
    assert lake.token == b""


S3 = f"type: s3, {URL}, region: r, bucket: b, key_id: k, secret: {SOURCE}"


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        (f"type: splunk, {URL}", "'token' is missing"),
        (f"type: splunk, {URL}, token: {{file: /a, credential: b}}", "exactly one"),
        (f"type: splunk, url: http://a, token: {SOURCE}", "needs https:, or plain_because"),
        (f"type: splunk, url: ftp://a, token: {SOURCE}, plain_because: x", "of http or https"),
        (f"type: splunk, {URL}, token: {SOURCE}, tls: {{name: x}}", "tls.name"),
        (f"type: otlp, {URL}, protocol: udp", "sinks.a.protocol"),
        (f"type: otlp, {URL}/path, protocol: grpc".replace('"/path', '/path"'), "no path"),
        (f"type: otlp, {URL}, protocol: http, headers: {{X: {SOURCE}}}", "is no header"),
        (f"type: traces, {URL}, protocol: grpc, sample: 1.5", "sinks.a.sample"),
        (f"type: traces, {URL}, protocol: grpc, format: json", "takes spans, not json"),
        (f"type: otlp, {URL}, protocol: grpc, format: spans", "not spans"),
        (f"type: opensearch, {URL}, index: UPPER", "no name of an index"),
        (
            f"type: opensearch, {URL}, index: i, format: cef",
            "ocsf-1.9, not cef",
        ),
        (f"type: opensearch, {URL}, index: i, user: u", "belong together"),
        (
            f"type: opensearch, {URL}, index: i, user: u, password: {SOURCE}, api_key: {SOURCE}",
            "either",
        ),
        (f"type: webhook, {URL}, secret: {SOURCE}, format: cef", "single: true"),
        (f"type: webhook, {URL}, secret: [{SOURCE}, {SOURCE}, {SOURCE}]", "at most 2"),
        ("type: kafka, brokers: [a], topic: t, plain_because: x", "is not an address"),
        ('type: kafka, brokers: ["a:1"], topic: t', "plain_because"),
        (
            'type: kafka, brokers: ["a:1"], topic: t, plain_because: x, '
            f"sasl: {{mechanism: NONE, user: u, password: {SOURCE}}}",
            "a mechanism is one of",
        ),
        (f"{S3}, format: cef", "ocsf-1.9, not cef"),
        (f"{S3}, prefix: /a", "is no prefix"),
        (f'{S3}, format: ecs, security_lake: {{source: s, account: "1"}}', "format of OCSF"),
    ],
)
def test_what_is_wrong_is_told(sink: str, said: str, tmp_path: Path) -> None:
    assert said in problem(tmp_path, f"sinks: {{a: {{{sink}}}}}\n")


@pytest.mark.parametrize(
    ("sink", "place"),
    [
        (f"type: splunk, {URL}, token: hunter2hunter2", "sinks.a.token"),
        ("type: splunk, token: hunter2hunter2", "sinks.a: the key 'url' is missing"),
        (f"type: webhook, {URL}, secret: hunter2hunter2", "sinks.a.secret"),
        (f"type: webhook, {URL}, secret: [hunter2hunter2]", "sinks.a.secret[0]"),
        (f"type: otlp, {URL}, protocol: grpc, headers: {{a: hunter2}}", "sinks.a.headers.a"),
    ],
)
def test_a_secret_that_stands_where_its_source_belongs_is_not_shown(
    sink: str, place: str, tmp_path: Path
) -> None:
    message = problem(tmp_path, f"sinks: {{a: {{{sink}}}}}\n")
    assert place in message
    assert "say where it is from: {file: /path}" in message
    assert "hunter2" not in message


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervisor.export.sinks.kafka", None)
    text = 'sinks: {a: {type: kafka, brokers: ["a:1"], topic: t, plain_because: x}}\n'
    assert "pip install 'stockade[kafka]'" in problem(tmp_path, text)
