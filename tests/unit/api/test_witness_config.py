"""Witnesses in the configuration, as plain values."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from supervisor.api.witness_config import WitnessEntry, WitnessFor
from supervisor.audit.notes import VerifierKey
from supervisor.audit.witness import FileWitness

KEY = VerifierKey(name="log.example.com", public=bytes(32))


def test_who_keeps_our_heads() -> None:
    assert WitnessEntry(file="/heads").witness == FileWitness(Path("/heads"))
    assert WitnessEntry(stockade="unix:///run/other.sock").witness is None


def test_whose_heads_are_kept() -> None:
    assert WitnessFor(origin=KEY.name, key=str(KEY)).verifier == KEY
    with pytest.raises(ValidationError, match="the key is of"):
        WitnessFor(origin="another.example.com", key=str(KEY))
