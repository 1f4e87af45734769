"""What is in force is on record, and a change of any part of it shows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.api import policy
from supervisor.api.config import Configuration
from supervisor.audit.entry import Position
from supervisor.audit.reading import read_log
from supervisor.audit.segment import MAGIC
from supervisor.audit.verify import verify
from supervisor.call.types import Digest, canonical_json
from supervisor.errors import AuditUnavailable
from supervisor.profile.load import ProfileSet
from tests.style.tree import ROOT
from tests.support.records import opened

CALLER = {"name": "agent", "uid": 1000, "profiles": ["fine"], "audit": "own"}
FINE = "profile: fine\nextends: base\nwhy: Tests.\nlimits: {wall: 30s}\n"
WRONG = "profile: wrong\nwhy: Tests.\nno-such-key: 1\n"


def policy_of(folder: Path, fine: str = FINE, **config: Any) -> dict[str, Any]:
    (folder / "fine.yaml").write_text(fine)
    (folder / "wrong.yaml").write_text(WRONG)
    settings = {"callers": [CALLER], **config}
    return policy.policy_of(
        Configuration.model_validate(settings), Path("/etc/c.yaml"), profiles_of(folder)
    )


def profiles_of(folder: Path) -> ProfileSet:
    return ProfileSet.load([ROOT / "profiles", folder])


def noted(state: Path, *policies: dict[str, Any]) -> list[dict[str, Any]]:
    """Write them as a daemon does; give the bodies of their entries."""

    async def main() -> list[dict[str, Any]]:
        async with opened(state) as store:
            for one in policies:
                await policy.note(store, one)
                assert store._journal._durable == store._journal.head[0]
            start = Position(segment=0, offset=len(MAGIC))
            return [entry.body() for entry in read_log(store._journal, start)]

    return asyncio.run(main())


def test_it_says_who_may_call_what_under_which_profiles(tmp_path: Path) -> None:
    found = policy_of(tmp_path)
    profiles = profiles_of(tmp_path)
    assert found["callers"] == [
        {
            "name": "agent",
            "uid": 1000,
            "profiles": ["fine"],
            "calls": "own",
            "audit": "own",
            "holds": False,
            "erase": "none",
            "witness": False,
            "exports": "none",
        }
    ]
    digest = profiles.effective("fine").digest
    said = {one["name"]: one for one in found["profiles"]}
    assert set(said) == set(profiles.names)
    assert said["fine"] == {"name": "fine", "digest": digest, "mode": "enforce"}
    wrong = len(profiles.problems("wrong"))
    assert wrong
    assert said["wrong"] == {"name": "wrong", "problems": wrong}
    assert found["configuration"]["source"] == "/etc/c.yaml"
    assert found["configuration"]["settings"]["limits"]["calls"] == 64


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"callers": [{**CALLER, "audit": "all"}]}, "callers"),
        ({"callers": [{**CALLER, "holds": True}]}, "callers"),
        ({"callers": [{**CALLER, "witness": True}]}, "callers"),
        ({"callers": [{**CALLER, "exports": "see"}]}, "callers"),
        ({"callers": [{**CALLER, "profiles": ["*"]}]}, "callers"),
        ({"limits": {"calls": 65}}, "configuration"),
        ({"secrets": {"token": {"file": "/etc/token"}}}, "configuration"),
        ({"fine": FINE.replace("30s", "31s")}, "profiles"),
    ],
    ids=str,
)
def test_a_change_shows_in_its_part(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    state = tmp_path / "state"
    before, after, again = noted(
        state, policy_of(tmp_path), policy_of(tmp_path, **change), policy_of(tmp_path, **change)
    )
    differs = [name for name in policy.PARTS if before[f"{name}_sha256"] != after[f"{name}_sha256"]]
    assert differs == [part]
    assert after == again
    assert verify(state).ok


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    secrets = {
        "a": {"command": ["/bin/vault", "--token", "hunter2"]},
        "b": {"file": "/etc/b"},
        "c": {"credential": "c"},
    }
    witnesses = [{"command": ["/bin/push", "--password", "hunter2"]}]
    found = policy_of(tmp_path, secrets=secrets, witnesses=witnesses)
    assert "hunter2" not in json.dumps(found)
    settings = found["configuration"]["settings"]
    assert settings["witnesses"][0]["command"] == "/bin/push"
    given = settings["secrets"]
    assert given["a"]["command"] == "/bin/vault"
    assert (given["b"], given["c"]) == ({"file": "/etc/b"}, {"credential": "c"})
    other = {**secrets, "a": {"command": ["/bin/vault", "--token", "hunter3"]}}
    assert policy_of(tmp_path, secrets=other, witnesses=witnesses) != found


def test_what_does_not_fit_goes_to_a_blob_that_verify_holds_it_to(tmp_path: Path) -> None:
    callers = [{**CALLER, "name": f"c{uid}", "uid": uid} for uid in range(2000)]
    state = tmp_path / "state"
    large = policy_of(tmp_path, callers=callers)
    (body,) = noted(state, large)
    assert "policy" not in body
    digest = Digest.of(canonical_json(large))
    assert body["policy_blob"] == {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
    assert verify(state).ok
    (path,) = (state / "blobs").rglob(f"*{digest.sha256[8:]}*")
    path.unlink()
    assert not verify(state).ok


def test_without_its_entry_nobody_is_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "state") as store:
            store._journal.fail("a test", OSError(5, "broken"))
            with pytest.raises(AuditUnavailable):
                await policy.note(store, policy_of(tmp_path))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example.com:8088", "https://a.example.com:8088"),
        ("https://a.example.com/", "https://a.example.com"),
        ("https://a.example.com/hunter2", "https://a.example.com/…"),
        ("https://a.example.com?t=hunter2", "https://a.example.com/…"),
    ],
)
def test_no_path_of_a_sinks_address_is_in_it(tmp_path: Path, url: str, shown: str) -> None:
    sink = {"type": "webhook", "url": url, "secret": {"file": "/etc/hook"}}
    policy = policy_of(tmp_path, sinks={"a": sink})
    found = policy["configuration"]["settings"]["sinks"]["a"]
    assert found["url"].startswith(shown)
    assert found["secret"] == [{"file": "/etc/hook"}]
    assert "hunter2" not in json.dumps(policy)
    other = policy_of(tmp_path, sinks={"a": {**sink, "url": f"{url}3"}})
    assert other["configuration"] != policy["configuration"]
