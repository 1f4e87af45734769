"""What the configuration names comes as the rooms take it; `test_serve` sees it built in."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.api.metrics import Metrics
from supervisor.audit.signers import FileSource, TokenSource
from supervisor.cli import provided, serve
from supervisor.errors import CapacityError

LABEL = "t"


def empty(folder: Path) -> Path:
    path = folder / "empty.yaml"
    path.write_text("limits: {calls: 3}\n")
    return path


def test_a_token_is_asked_as_the_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("supervisor.audit.signers.open_signer", lambda *given: asked.append(given))
    monkeypatch.setenv(provided.CREDENTIALS, "/run/credentials/stockade")
    path = tmp_path / "config.yaml"
    path.write_text(
        "record:\n  origin: log.example.com\n"
        f"  key: {{pkcs11: {{module: /m.so, token: {LABEL}, key: k, pin: {{credential: p}}}}}}\n"
    )
    provided.signer_of(serve.configuration(path))
    source = TokenSource(module="/m.so", token=LABEL, key="k", pin=FileSource(credential="p"))
    assert asked == [(source, "log.example.com", Path("/run/credentials/stockade"))]
    assert provided.signer_of(serve.configuration(empty(tmp_path))) is None


def test_what_retention_does_is_measured_and_waits_for_our_sinks(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("record: {retain: {age: 90d, exported_by: [siem]}}\n")
    metrics = Metrics([])
    policy = provided.retain_of(serve.configuration(path), metrics, lambda: ("out", "siem"))
    assert policy is not None
    assert policy.observer is metrics
    assert policy.exporters == ("siem", "out")
    assert policy.age_ns == 90 * 24 * 3600 * 10**9
    assert provided.retain_of(serve.configuration(empty(tmp_path)), metrics) is None


SINK = "sinks: {out: {type: file, path: /var/log/out}}\n"


@pytest.mark.parametrize(
    ("text", "soft", "hard"),
    [
        ("limits: {calls: 3}\n", None, None),
        (SINK, 100, 50),
        (SINK + "record: {watermark: {soft: 3%}}\n", 30, 50),
        ("record: {watermark: {hard: 99%, soft: 1%}}\n", 10, 990),
    ],
)
def test_the_disk_has_marks_where_there_are_sinks_or_they_are_asked_for(
    tmp_path: Path, text: str, soft: int | None, hard: int | None
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    config = serve.configuration(path, state=tmp_path)
    assert (provided.watermark_of(config) is None) == (soft is None)
    if config.marks is not None:
        assert (config.marks.soft.per_mille, config.marks.hard.per_mille) == (soft, hard)


def test_marks_are_those_of_the_state_folder(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("record: {watermark: {soft: 2TiB, hard: 1024TiB}}\n")
    mark = provided.watermark_of(serve.configuration(path, state=tmp_path))
    assert mark is not None
    assert (mark.room().soft, mark.room().hard) == (2 << 40, 1 << 50)
    with pytest.raises(CapacityError):
        mark.require()
