"""What the room promises as a whole: it stands alone, and says so where supervisord is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import supervisor

ROOT = Path(supervisor.__file__).parent


def run(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        check=False, capture_output=True, text=True,
        env={"PYTHONPATH": os.pathsep.join(map(str, folders)), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_needs_nothing_of_the_daemon() -> None:
    code = (
        "import sys; import supervisor.client; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('pydantic', 'ruamel', 'apsw', 'zstandard', 'prometheus_client', 'click', 'rich') "
        "or m.startswith(('supervisor.api', 'supervisor.audit', 'supervisor.engine'))])"
    )
    assert run(code, ROOT.parent).stdout.strip() == "[]"


def test_supervisord_in_the_same_folder_is_named(tmp_path: Path) -> None:
    package = tmp_path / "supervisor"
    package.mkdir()
    for path in ROOT.iterdir():
        (package / path.name).symlink_to(path)
    code = "import supervisor.client"
    assert run(code, tmp_path).returncode == 0
    (package / "supervisord.py").write_text("")
    said = run(code, tmp_path)
    assert said.returncode != 0
    assert "supervisord" in said.stderr.splitlines()[-1]


def test_a_package_that_is_not_ours_is_named(tmp_path: Path) -> None:
    package = tmp_path / "supervisor"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "client").symlink_to(ROOT / "client")
    said = run("import supervisor.client", tmp_path)
    assert said.returncode != 0
    assert "ImportError" in said.stderr.splitlines()[-1]
    assert "supervisord" in said.stderr
