"""Secrets in profiles: each is told with its place, and never shown."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from supervisor.cli.folders import shipped_profiles
from supervisor.cli.in_clear import in_clear, warn_of_secrets
from supervisor.profile.load import ProfileSet

TOKEN = "ghp_" + "a1B2c3D4" * 4 + "e5F6"
PROFILE = f"""\
profile: mine
extends: base
use: [part]
why: "It has {TOKEN} in its reason."
env:
  PATH: /usr/bin
  APP_NOTE: "token {TOKEN}"
  DB_PASSWORD: changeme
  GH_TOKEN: ""
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fragments").mkdir()
    (tmp_path / "mine.yaml").write_text(PROFILE)
    fragment = "fragment: part\nwhy: A test.\nenv: {GH_PAT: x}\n"
    (tmp_path / "fragments" / "part.yaml").write_text(fragment)
    return tmp_path


def test_each_has_its_place_and_whose_it_is(folder: Path) -> None:
    found = in_clear(ProfileSet.load([shipped_profiles(), folder]))
    assert [
        (whose, one.line, one.column, one.message.split()[0]) for one, whose in found.items()
    ] == [
        ("profile mine", 4, 6, "why"),
        ("profile mine", 7, 13, "env.APP_NOTE"),
        ("profile mine", 8, 16, "env.DB_PASSWORD"),
        ("fragment part", 3, 15, "env.GH_PAT"),
    ]
    assert all("`secrets:`" in one.hint for one in found)
    assert not any(TOKEN in one.render() or "changeme" in one.render() for one in found)


def test_what_is_shipped_holds_none() -> None:
    assert in_clear(ProfileSet.load([shipped_profiles()])) == {}


def test_the_log_names_the_profile_and_not_the_value(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_secrets(ProfileSet.load([shipped_profiles(), folder]))
    told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert f"profile mine: {folder / 'mine.yaml'}:7:13: env.APP_NOTE looks like a secret" in told[1]
    assert len(told) == 4 and not any(TOKEN in one or "changeme" in one for one in told)
