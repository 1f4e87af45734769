"""Values that parts of the configuration share; `test_config` sees them in their places."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from supervisor.api.config_values import Age, Duration, Secret, Size


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Size, "16MiB", 16 << 20),
        (Duration, "90s", 90.0),
        (Age, "2d", 172_800.0),
        (Age, "1h", 3600.0),
    ],
)
def test_units(kind: object, text: str, value: float) -> None:
    assert TypeAdapter(kind).validate_python(text) == value


@pytest.mark.parametrize(("kind", "value"), [(Size, 16), (Duration, "0s"), (Age, "59m")])
def test_what_is_none(kind: object, value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


def test_a_secret_has_one_source() -> None:
    assert Secret(file="/a").source.file == "/a"
    assert Secret(command=["/a", "b"]).source.command == ("/a", "b")
    assert Secret(credential="a").source.credential == "a"
    for wrong in ({}, {"file": "/a", "credential": "b"}, {"file": "a"}, {"command": ["a"]}):
        with pytest.raises(ValidationError):
            Secret.model_validate(wrong)
