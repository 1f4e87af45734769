"""Put the shipped profiles, the built programs and the probes into the wheel, and only there.

`force-include` in pyproject.toml would apply to editable installs too: these would fail before
they are built, and would carry a copy of the profiles that goes stale. A checkout reads
profiles/ and what lies in the .output/ of each room in place.
"""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DataHook(BuildHookInterface):
    """Add supervisor/_data to a wheel that is no editable one."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the cell and name the files; `version` is "editable" or "standard"."""
        if version == "editable":
            return
        root = Path(self.root)
        library = Path("supervisor", "audit", "native")
        for room in ("cell", "probes", library):
            subprocess.run(["make", "-s", "-C", root / room], check=True)  # noqa: S607
        probes = (root / "probes" / ".output").glob("*.bpf.o")
        build_data["force_include"] |= {
            str(root / "profiles"): "supervisor/_data/profiles",
            str(root / "cell" / ".output" / "cell"): "supervisor/_data/cell",
            str(root / "cell" / ".output" / "canary"): "supervisor/_data/canary",
            str(root / library / ".output" / "libframes.so"): "supervisor/_data/libframes.so",
            **{str(path): f"supervisor/_data/probes/{path.name}" for path in probes},
        }
        # The cell and the library are of this machine's architecture; the Python is any 3.
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
