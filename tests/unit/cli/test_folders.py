"""Where profiles come from."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from supervisor.cli import doctor, folders, serve, trace


def test_shipped_profiles_are_there() -> None:
    assert (folders.shipped_profiles() / "base.yaml").is_file()


def test_configured_folders_are_the_only_ones() -> None:
    assert folders.profile_folders(["/a", "/b"]) == [Path("/a"), Path("/b")]


def test_default_adds_the_hosts_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders, "ETC_PROFILES", tmp_path)
    assert folders.profile_folders() == [folders.shipped_profiles(), tmp_path]
    monkeypatch.setattr(folders, "ETC_PROFILES", tmp_path / "none")
    assert folders.profile_folders() == [folders.shipped_profiles()]


@pytest.mark.parametrize("verb", [serve, trace, doctor])
def test_a_runtime_folder_is_made_absolute(
    verb: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    context = verb.command.make_context("verb", ["--runtime-dir", "./run"])
    assert context.params["runtime_folder"] == tmp_path / "run"
