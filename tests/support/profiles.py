"""Profiles that a test makes up for its daemon, beside the shipped ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.style.tree import ROOT

SHIPPED = ROOT / "profiles"


def with_profiles(folder: Path, /, **bodies: str) -> dict[str, Any]:
    """Write `NAME.yaml` below `folder` for each body; give the configuration that loads them.

    A body is what stands below `extends:` and `why:`, or a whole profile that begins with
    `profile:`.
    """
    folder.mkdir(exist_ok=True, parents=True)
    for name, body in bodies.items():
        head = f"profile: {name}\nextends: base\nwhy: For one test.\n"
        text = body if body.startswith("profile:") else head + body + "\n"
        (folder / f"{name}.yaml").write_text(text)
    return {"profiles": [str(SHIPPED), str(folder)]}
