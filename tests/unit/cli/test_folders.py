"""Where profiles come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cli import folders


def test_shipped_profiles_are_there() -> None:
    assert (folders.shipped_profiles() / "base.yaml").is_file()


def test_configured_folders_are_the_only_ones() -> None:
    assert folders.profile_folders(["/a", "/b"]) == [Path("/a"), Path("/b")]


def test_default_adds_the_hosts_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders, "ETC_PROFILES", tmp_path)
    assert folders.profile_folders() == [folders.shipped_profiles(), tmp_path]
    monkeypatch.setattr(folders, "ETC_PROFILES", tmp_path / "none")
    assert folders.profile_folders() == [folders.shipped_profiles()]
