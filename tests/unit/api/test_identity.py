"""The daemon's identity: read where it is guarded, and never told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor.api.identity import read_identities
from supervisor.errors import HostError
from supervisor.sandbox.secrets import SecretSource
from tests.support.records import IDENTITY, RECIPIENT

TEXT = f"# created: today\n# public key: {RECIPIENT}\n{IDENTITY}\n"


def guarded(path: Path, text: str = TEXT) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def identities(source: SecretSource, credentials: Path | None = None) -> tuple[str, ...]:
    return asyncio.run(read_identities(source, credentials))


def test_from_a_file_and_a_credential(tmp_path: Path) -> None:
    path = guarded(tmp_path / "id")
    assert identities(SecretSource(file=str(path))) == (IDENTITY,)
    assert identities(SecretSource(credential="id"), tmp_path) == (IDENTITY,)


def test_from_a_command() -> None:
    command = ("/usr/bin/printf", "%s\\n", IDENTITY)
    assert identities(SecretSource(command=command)) == (IDENTITY,)


@pytest.mark.parametrize(
    ("text", "mode"),
    [(TEXT, 0o644), ("", 0o600), (TEXT + "hello\n", 0o600), (IDENTITY[:-1], 0o600)],
)
def test_what_is_none_is_not_told(text: str, mode: int, tmp_path: Path) -> None:
    path = guarded(tmp_path / "id", text)
    path.chmod(mode)
    with pytest.raises(HostError) as caught:
        identities(SecretSource(file=str(path)))
    assert caught.value.reason == "IDENTITY_UNAVAILABLE"
    assert IDENTITY[:-1] not in str(caught.value)


def test_what_is_not_ascii_is_not_told(tmp_path: Path) -> None:
    path = guarded(tmp_path / "id", TEXT + "\N{LATIN SMALL LETTER E WITH ACUTE}\n")
    with pytest.raises(HostError, match="not ASCII") as caught:
        identities(SecretSource(file=str(path)))
    assert "0xc3" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        SecretSource(file="/nowhere"),
        SecretSource(credential="id"),
        SecretSource(command=("/usr/bin/false",)),
        SecretSource(command=("/usr/bin/printf", "no identity")),
    ],
)
def test_what_cannot_be_had(source: SecretSource) -> None:
    with pytest.raises(HostError) as caught:
        identities(source)
    assert caught.value.reason == "IDENTITY_UNAVAILABLE"
