"""Names of users and groups, also where there are none."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from supervisor.api import accounts

NOBODY_HAS = 3_999_999_999


def test_names() -> None:
    assert accounts.user_name(0) == "root"
    assert accounts.group_name(0) == "root"
    assert accounts.user_name(NOBODY_HAS) == f"uid {NOBODY_HAS}"
    assert accounts.group_name(NOBODY_HAS) == str(NOBODY_HAS)


def test_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 7] if name == "root" else [])
    assert accounts.groups_of(0) == {0, 7}
    assert accounts.groups_of(NOBODY_HAS) == frozenset()


@pytest.mark.parametrize(
    ("name", "members", "private"),
    [("al", [], True), ("al", ["al"], True), ("al", ["bo"], False), ("bo", [], False)],
)
def test_private_group(
    name: str, members: list[str], private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.struct_passwd(("al", "x", 1000, 1000, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((name, "x", gid, members)))
    assert accounts.is_private_group(1000, 1000) is private


def test_a_number_without_account_has_no_private_group() -> None:
    assert not accounts.is_private_group(NOBODY_HAS, NOBODY_HAS)
