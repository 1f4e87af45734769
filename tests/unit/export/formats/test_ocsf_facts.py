"""What is said of OCSF here is what OCSF says."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.export.formats import ocsf_facts as facts
from tests.support.ocsf import definitions

LATER = ("1.8.0", "1.9.0")
EVERY = ("1.1.0", *LATER)


def of(version: str, uid: int) -> tuple[str, dict[str, Any]]:
    name = definitions(version)["classes"][str(uid)]
    return name, definitions(version)["$defs"][name]


def captions(version: str, class_: dict[str, Any], name: str) -> dict[str, str]:
    parts = [class_, *class_.get("profiles", {}).values()]
    (schema,) = [part["properties"][name] for part in parts if name in part["properties"]]
    told: dict[str, str] = definitions(version)["$defs"][schema["$ref"][8:]]["captions"]
    return told


@pytest.mark.parametrize("version", LATER)
@pytest.mark.parametrize("uid", facts.CLASSES)
def test_classes(version: str, uid: int) -> None:
    _, class_ = of(version, uid)
    mine = facts.CLASSES[uid]
    assert captions(version, class_, "class_uid") == {str(uid): mine.name}
    assert captions(version, class_, "category_uid") == {str(mine.category_uid): mine.category}
    told = captions(version, class_, "activity_id")
    assert {number: told[str(number)] for number in mine.activities} == mine.activities
    assert captions(version, class_, "severity_id").items() >= {
        str(number): name for number, name in facts.SEVERITIES.items()
    }.items()  # fmt: skip


@pytest.mark.parametrize("version", EVERY)
def test_decisions(version: str) -> None:
    _, class_ = of(version, facts.KERNEL_ACTIVITY)
    for name, mine in (("action_id", facts.ACTIONS), ("disposition_id", facts.DISPOSITIONS)):
        told = captions(version, class_, name)
        known = {n: caption for n, caption in mine.items() if (version, n) != ("1.1.0", 3)}
        assert {number: told[str(number)] for number in known} == known
    assert captions(version, class_, "status_id")["2"] == facts.STATUSES[facts.FAILURE]


@pytest.mark.parametrize("version", LATER)
@pytest.mark.parametrize("uid", facts.CLASSES)
def test_profiles(version: str, uid: int) -> None:
    profiles = of(version, uid)[1].get("profiles", {})
    host = profiles.get("host", {}).get("properties", {})
    assert (uid in facts.DEVICE_BY_PROFILE) == ("device" in host)
    assert (uid in facts.ACTOR_BY_PROFILE) == ("actor" in host)
    assert (uid in facts.TRACED) == ("trace" in profiles)
    if version == "1.9.0":
        assert (uid in facts.AI_OPERATION_1_9) == ("ai_operation" in profiles)
        assert "record_integrity" in profiles


@pytest.mark.parametrize("uid", sorted(facts.LACKING_1_1))
def test_1_1_has_not_what_it_is_said_not_to_have(uid: int) -> None:
    _, class_ = of("1.1.0", uid)
    parts = [class_, *class_.get("profiles", {}).values()]
    has = set().union(*(part["properties"] for part in parts))
    assert not has & facts.LACKING_1_1[uid]


def test_1_1_lacks_classes_or_they_need_more() -> None:
    assert str(facts.EVENT_LOG_ACTIVITY) not in definitions("1.1.0")["classes"]
    assert {"http_request", "http_response"} <= set(of("1.1.0", facts.HTTP_ACTIVITY)[1]["required"])
    known = facts.CLASSES.keys() - facts.INSTEAD_1_1.keys()
    assert known == facts.LACKING_1_1.keys()
    assert set(facts.INSTEAD_1_1.values()) <= known
