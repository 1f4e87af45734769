"""Makes the schemas here from the definitions of OCSF (https://github.com/ocsf, Apache-2.0).

Run by hand. Input is the PyPI package `tenzir` 6.20.0, unpacked: it has the definitions of each
release with all that a class or an object takes from those that it extends, and attributes that
`"profile": null` takes out of a profile are out of it. Names of enumerators come from its program,
which is asked for each of them. Only facts are taken: names, types, requirements, constraints,
identifiers and their captions.

    python tests/ocsf/compile.py FOLDER

writes a JSON Schema (2020-12) a release, with two keywords of our own: `profiles` are attributes
that an object has, and needs, where the event names that profile; `captions` are what each `enum`
is called.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
VERSIONS = ("1.1.0", "1.8.0", "1.9.0")
CLASSES = (
    "base_event", "process_activity", "kernel_activity", "file_system_activity",
    "event_log_activity", "detection_finding", "entity_management", "network_activity",
    "http_activity", "dns_activity", "device_config_state_change", "application_lifecycle",
    "api_activity",
)  # fmt: skip
IDS = range(-1, 301)
PLAIN: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "int64": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "double": {"type": "number"},
    "bool": {"type": "boolean"},
    "time": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "ip": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    "subnet": {"type": "string"},
    "blob": {"type": "string"},
}
_TYPE = re.compile(r"^type _ocsf\.v\w+?_\d+_\d+\.(?:object\.)?(\w+) = record\{$")
_ATTRIBUTE = re.compile(r"^  (\w+): (list<)?(?:_ocsf\.v\w+?_\d+_\d+\.object\.)?(\w+)>? (.*?),?$")
_END = re.compile(r"^\}(.*)$")


def parse(text: str) -> dict[str, dict[str, Any]]:
    """Give each class and object: attributes with their marks, and constraints."""
    found: dict[str, dict[str, Any]] = {}
    name = ""
    for line in text.splitlines():
        if (begin := _TYPE.match(line)) is not None:
            # An object may be called as a class is.
            name = ("object." if ".object." in line else "") + begin[1]
            found[name] = {"attributes": {}}
        elif name and (end := _END.match(line)) is not None:
            found[name] |= marks(end[1])
            name = ""
        elif name and (one := _ATTRIBUTE.match(line)) is not None:
            attribute = {"type": one[3], "list": bool(one[2]), **marks(one[4])}
            found[name]["attributes"][one[1]] = attribute
    return found


def marks(text: str) -> dict[str, Any]:
    """Read `#name` and `#name=value`."""
    pairs = (mark.partition("=") for mark in re.findall(r"#(\S+)", text))
    return {name: value or True for name, _, value in pairs}


def reached(types: dict[str, dict[str, Any]]) -> list[str]:
    """Give the classes that we use, and the objects that they lead to."""
    todo = deque(name for name in CLASSES if name in types)
    seen = dict.fromkeys(todo)
    while todo:
        for attribute in types[todo.popleft()]["attributes"].values():
            name = f"object.{attribute['type']}"
            if name in types and name not in seen:
                seen[name] = None
                todo.append(name)
    return list(seen)


def places(types: dict[str, dict[str, Any]]) -> dict[str, tuple[str, list[tuple[str, bool]]]]:
    """Give for each enum a class, and the way from there to an attribute that has it."""
    todo: deque[tuple[str, str, list[tuple[str, bool]]]] = deque(
        (name, name, []) for name in CLASSES if name in types
    )
    found: dict[str, tuple[str, list[tuple[str, bool]]]] = {}
    seen = set()
    while todo:
        root, name, way = todo.popleft()
        for key, attribute in types[name]["attributes"].items():
            here = [*way, (key, attribute["list"])]
            if "enum" in attribute:
                found.setdefault(attribute["enum"], (root, here))
            inner = f"object.{attribute['type']}"
            if inner in types and inner not in seen:
                seen.add(inner)
                todo.append((root, inner, here))
    return found


def captions(
    engine: Path, version: str, types: dict[str, dict[str, Any]], uids: dict[str, int]
) -> dict[str, dict[int, str]]:
    """Ask the program what the enumerators of each enum are called."""
    asked, lines = [], []
    for enum, (root, way) in places(types).items():
        sibling = sibling_of(types, root, way)
        for number in numbers(way, uids[root]):
            inner: Any = number
            for key, is_list in reversed(way):
                inner = {key: [inner] if is_list else inner}
            own = {"version": version, "sequence": len(asked), **inner.pop("metadata", {})}
            lines.append(json.dumps({"class_uid": uids[root], "metadata": own, **inner}))
            asked.append((enum, number, way, sibling))
    program = "from_stdin { read_ndjson }\nocsf_derive\nwrite_ndjson"
    done = subprocess.run(
        [engine, program], input="\n".join(lines).encode(), capture_output=True, check=True
    )
    answers = {
        one["metadata"]["sequence"]: one for one in map(json.loads, done.stdout.splitlines())
    }
    found: dict[str, dict[int, str]] = {}
    for position, (enum, number, way, sibling) in enumerate(asked):
        said = value_at(answers[position], [*way[:-1], (sibling, way[-1][1])])
        if isinstance(said, str):
            found.setdefault(enum, {})[number] = said
    return found


def sibling_of(types: dict[str, dict[str, Any]], root: str, way: list[tuple[str, bool]]) -> str:
    name = root
    for key, _ in way[:-1]:
        name = f"object.{types[name]['attributes'][key]['type']}"
    return str(types[name]["attributes"][way[-1][0]]["sibling"])


def numbers(way: list[tuple[str, bool]], uid: int) -> Iterator[int]:
    match way[-1][0]:
        case "class_uid":
            yield uid
        case "category_uid":
            yield uid // 1000
        case "type_uid":
            yield from (uid * 100 + number for number in range(100))
        case _:
            yield from IDS


def value_at(value: Any, way: list[tuple[str, bool]]) -> Any:
    for key, is_list in way:
        value = value.get(key) if isinstance(value, dict) else None
        if is_list:
            value = value[0] if isinstance(value, list) and value else None
    return value


def schema(name: str, one: dict[str, Any], types: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Give the JSON Schema of a class or an object."""
    made: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}
    always: list[str] = []
    profiles: dict[str, dict[str, Any]] = {}
    for key, attribute in one["attributes"].items():
        needed = "required" in attribute
        named = str(attribute.get("profile") or attribute.get("profiles") or "")
        for profile in named.split("|") if named else ():
            part = profiles.setdefault(profile, {"properties": {}, "required": []})
            part["properties"][key] = value_schema(attribute, types)
            part["required"] += [key] if needed else []
        if not named:
            made["properties"][key] = value_schema(attribute, types)
            always += [key] if needed else []
    made["required"] = always
    for mark, keyword in (("at_least_one", "anyOf"), ("just_one", "oneOf")):
        if mark in one:
            made[keyword] = [{"required": [key]} for key in one[mark].split("|")]
    if profiles:
        made["profiles"] = profiles
    return made


def value_schema(attribute: dict[str, Any], types: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if "enum" in attribute:
        inner: dict[str, Any] = {"$ref": f"#/$defs/enum.{attribute['enum']}"}
        inner["sibling"] = attribute["sibling"]
    elif f"object.{attribute['type']}" in types:
        inner = {"$ref": f"#/$defs/object.{attribute['type']}"}
    elif attribute["type"] == "null":
        inner = {"type": "object"} if "must_be_record" in attribute else {}
    else:
        inner = {"$ref": f"#/$defs/type.{attribute['type']}"}
    return {"type": "array", "items": inner} if attribute["list"] else inner


def compiled(folder: Path, version: str) -> dict[str, Any]:
    """Give the schema of a release."""
    under = folder / "tenzir/bundled"
    file = under / f"share/tenzir/schema/types/ocsf/v{version.replace('.', '_')}.schema"
    every = parse(file.read_text())
    types = {name: every[name] for name in reached(every)}
    uids = {name: uid for name, uid in UIDS.items() if name in types}
    enums = captions(under / "bin/tenzir", version, types, uids)
    definitions: dict[str, Any] = {f"type.{name}": plain for name, plain in PLAIN.items()}
    for enum in sorted(
        {a["enum"] for t in types.values() for a in t["attributes"].values() if "enum" in a}
    ):
        known = enums[enum]
        definitions[f"enum.{enum}"] = {
            "enum": sorted(known), "captions": {str(key): known[key] for key in sorted(known)}
        }  # fmt: skip
    for name, one in types.items():
        definitions[name] = schema(name, one, types)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"Made by compile.py from OCSF {version} (Apache-2.0); not to be edited.",
        "classes": {str(uid): name for name, uid in uids.items()},
        "$defs": definitions,
    }


UIDS = {
    "base_event": 0, "file_system_activity": 1001, "kernel_activity": 1003,
    "process_activity": 1007, "event_log_activity": 1008, "detection_finding": 2004,
    "entity_management": 3004, "network_activity": 4001, "http_activity": 4002,
    "dns_activity": 4003, "device_config_state_change": 5019, "application_lifecycle": 6002,
    "api_activity": 6003,
}  # fmt: skip


def main(folder: Path) -> None:
    for version in VERSIONS:
        text = json.dumps(compiled(folder, version), separators=(",", ":"), sort_keys=True)
        (HERE / f"{version}.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
