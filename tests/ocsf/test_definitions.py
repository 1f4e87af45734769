"""The check of events finds what is wrong with one, and the definitions are those of OCSF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.ocsf import definitions, known, problems

VERSIONS = ("1.1.0", "1.8.0", "1.9.0")


def event(version: str = "1.8.0") -> dict[str, Any]:
    """Give an API Activity that is one."""
    return {
        "class_uid": 6003,
        "class_name": "API Activity",
        "category_uid": 6,
        "category_name": "Application Activity",
        "activity_id": 1,
        "activity_name": "Create",
        "type_uid": 600301,
        "severity_id": 1,
        "severity": "Informational",
        "time": 1_700_000_000_000,
        "metadata": {"version": version, "product": {"name": "n", "vendor_name": "v"}},
        "actor": {"user": {"name": "tester"}},
        "api": {"operation": "Execute"},
        "src_endpoint": {"ip": "192.0.2.1"},
        "unmapped": {"any": {"thing": [1]}},
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_a_right_event_has_no_problem(version: str) -> None:
    assert problems(event(version), version) == []


def _set(way: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(one: dict[str, Any]) -> None:
        *path, last = way.split(".")
        for name in path:
            one = one.setdefault(name, {})
        one[last] = value

    return change


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    def change(one: dict[str, Any]) -> None:
        del one[name]

    return change


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    # Required without any profile, though the profile `host` has an actor, too.
    "no actor": (_without("actor"), "actor"),
    "no source": (_without("src_endpoint"), "src_endpoint"),
    "an enumerator that is none": (_set("severity_id", 7), "severity_id"),
    "the name of another enumerator": (_set("severity", "High"), "severity"),
    "the type of another activity": (_set("type_uid", 600302), "type_uid"),
    "another category": (_set("category_uid", 1), "category_uid"),
    "a class that is none": (_set("class_uid", 6999), "6999"),
    "an unknown attribute": (_set("colour", "red"), "colour"),
    "an unknown attribute of an object": (_set("actor.colour", "red"), "colour"),
    "an attribute of a profile that is not named": (_set("disposition_id", 2), "disposition_id"),
    "an object's attribute of such a profile": (
        _set("src_endpoint.container", {"uid": "c"}), "container",
    ),
    "a profile that the class has not": (_set("metadata.profiles", ["incident"]), "incident"),
    "a profile without what it requires": (_set("metadata.profiles", ["osint"]), "osint"),
    "an object that has none of those that it needs": (_set("actor", {}), "actor"),
    "a text for a number": (_set("time", "now"), "time"),
    "a number without room": (_set("time", 2**63), "time"),
    "an address that is none": (_set("src_endpoint.ip", "here"), "ip"),
    "another version": (_set("metadata.version", "1.7.0"), "version"),
    "a list of what is none": (_set("metadata.labels", [1]), "labels"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    change, word = WRONG[name]
    one = event()
    change(one)
    found = problems(one, "1.8.0")
    assert found
    assert any(word in problem for problem in found), found


def test_an_attribute_of_a_profile_that_is_named_is_right() -> None:
    one = event()
    one["metadata"]["profiles"] = ["security_control", "container", "trace"]
    one |= {"disposition_id": 2, "disposition": "Blocked", "trace": {"uid": "ab"}}
    one["src_endpoint"]["container"] = {"uid": "c"}
    assert problems(one, "1.8.0") == []
    assert any("trace" in problem for problem in problems(one, "1.1.0"))


def test_1_1_needs_what_later_releases_do_not() -> None:
    later, old = (
        definitions(version)["$defs"]["network_activity"] for version in ("1.8.0", "1.1.0")
    )
    assert {"src_endpoint", "dst_endpoint"} <= set(old["required"])
    assert not {"src_endpoint", "dst_endpoint"} & set(later["required"])
    assert old["profiles"]["security_control"]["required"] == ["action_id"]
    assert "1008" not in definitions("1.1.0")["classes"]


def test_1_9_knows_agents_and_attestations() -> None:
    assert {"ai_operation", "record_integrity"} <= known("1.9.0", "kernel_activity")
    assert not {"ai_operation", "record_integrity"} & known("1.8.0", "kernel_activity")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_enum_has_its_names(version: str) -> None:
    """A made schema with an empty enum would take nothing, or name nothing."""
    enums = {k: v for k, v in definitions(version)["$defs"].items() if k.startswith("enum.")}
    assert len(enums) > 30
    for one in enums.values():
        assert one["enum"]
        assert [str(number) for number in one["enum"]] == list(one["captions"]) or set(
            one["captions"]
        ) == {str(number) for number in one["enum"]}
