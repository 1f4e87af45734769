"""Holds events to the definitions of OCSF that lie in `tests/ocsf`."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs

FOLDER = Path(__file__).parents[1] / "ocsf"
OTHER = 99


def problems(event: Mapping[str, Any], version: str) -> list[str]:
    """Give what is wrong with an event, nothing where it is one of its class in this release.

    Objects are closed; an attribute of a profile may be there, and has to be, only where
    `metadata.profiles` names that profile.
    """
    name = definitions(version)["classes"].get(str(event.get("class_uid")))
    if name is None:
        return [f"no class {event.get('class_uid')!r} in {version}"]
    metadata = event.get("metadata")
    profiles = metadata.get("profiles", ()) if isinstance(metadata, dict) else ()
    named = frozenset(profiles) if isinstance(profiles, list | tuple) else frozenset()
    found = [
        f"/{'/'.join(map(str, error.instance_path))}: {error.message}"
        for error in validator(version, name, named).iter_errors(event)
    ]
    found += [f"{name} has no profile {one}" for one in sorted(named - known(version, name))]
    if isinstance(metadata, dict) and metadata.get("version") != version:
        found.append(f"/metadata/version: not {version}")
    if not found:
        found += siblings(version, name, named, event)
        if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
            found.append(f"/type_uid: {event['type_uid']} is not class_uid and activity_id")
    return found


@functools.cache
def definitions(version: str) -> dict[str, Any]:
    """Give the schema of a release, as `compile.py` made it."""
    made: dict[str, Any] = json.loads(gzip.decompress((FOLDER / f"{version}.json.gz").read_bytes()))
    return made


@functools.cache
def known(version: str, name: str) -> frozenset[str]:
    """Give the profiles that a class, or an object that it leads to, has attributes of."""
    every = definitions(version)["$defs"]
    found, seen, todo = set(), {name}, [name]
    while todo:
        one = every[todo.pop()]
        parts = [one, *one.get("profiles", {}).values()]
        found.update(one.get("profiles", ()))
        for part in parts:
            for value in part.get("properties", {}).values():
                inner = value.get("items", value).get("$ref", "").removeprefix("#/$defs/")
                if inner.startswith("object.") and inner not in seen:
                    seen.add(inner)
                    todo.append(inner)
    return frozenset(found)


@functools.cache
def under(version: str, profiles: frozenset[str]) -> dict[str, Any]:
    """Give the definitions with the attributes of these profiles, and no others."""
    made = {}
    for name, one in definitions(version)["$defs"].items():
        parts = one.get("profiles", {})
        if "properties" in one:
            one = {key: value for key, value in one.items() if key != "profiles"}
            for profile in profiles & parts.keys():
                one["properties"] = {**one["properties"], **parts[profile]["properties"]}
                one["required"] = [*one["required"], *parts[profile]["required"]]
        made[name] = one
    return made


@functools.cache
def validator(
    version: str, name: str, profiles: frozenset[str]
) -> jsonschema_rs.Draft202012Validator:
    """Give the validator of a class under these profiles."""
    whole = {"$ref": f"#/$defs/{name}", "$defs": under(version, profiles)}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def siblings(
    version: str, name: str, profiles: frozenset[str], value: Any, way: str = ""
) -> Iterator[str]:
    """Give where the name of an enumerator is not that of its number; 99 has any."""
    every = under(version, profiles)
    for key, one in value.items():
        schema = every[name]["properties"][key]
        inner = schema.get("items", schema)
        target = inner.get("$ref", "").removeprefix("#/$defs/")
        if target.startswith("object."):
            for item in one if isinstance(one, list) else (one,):
                yield from siblings(version, target, profiles, item, f"{way}/{key}")
        elif "sibling" in inner and not isinstance(one, list) and one != OTHER:
            caption, said = every[target]["captions"][str(one)], value.get(inner["sibling"])
            if said not in (None, caption):
                yield f"{way}/{inner['sibling']}: {said!r} is not {caption!r}"
