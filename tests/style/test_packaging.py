"""What `pip install` puts on another machine, and that a client needs nothing of the daemon's."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.style.tree import ROOT, files, run

DAEMON_MODULES = (
    "apsw", "google_crc32c", "grpc_health", "grpc_reflection", "orjson", "prometheus_client",
    "pydantic", "pyrage", "re2", "ruamel.yaml", "zstandard",
)  # fmt: skip
HIDE = "import sys; sys.modules.update(dict.fromkeys(sys.argv[2:])); exec(sys.argv[1])"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build wheel and sdist, without a download."""
    folder = tmp_path_factory.mktemp("dist")
    problems = run(sys.executable, "-m", "hatchling", "build", "-d", folder)
    assert not problems, problems
    return folder


def test_wheel_holds_the_profiles_and_the_cell(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        shipped = [p for p in files() if p.is_relative_to("profiles") and p.suffix == ".yaml"]
        assert shipped
        for profile in shipped:
            assert wheel.read(f"supervisor/_data/{profile}") == (ROOT / profile).read_bytes()
        assert wheel.read("supervisor/_data/cell") == (ROOT / "cell/.output/cell").read_bytes()
        mode = wheel.getinfo("supervisor/_data/cell").external_attr >> 16
        assert mode & 0o111, "the cell is not executable"
        library = ROOT / "supervisor/audit/native/.output/libframes.so"
        assert wheel.read("supervisor/_data/libframes.so") == library.read_bytes()
    assert "supervisor/v1/tool_pb2.py" in names
    pages = ROOT / "supervisor/console"
    of_pages = {str(one.relative_to(ROOT)) for one in pages.glob("*/*.*") if one.suffix != ".pyc"}
    assert "supervisor/console/templates/base.html" in of_pages
    assert of_pages <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"supervisor", "stockade"}


def test_wheel_is_for_this_machine_only(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert path.name.startswith("stockade-")
    assert "-py3-none-linux_" in path.name


def test_sdist_holds_what_the_wheel_is_built_from(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {".ci/hatch_build.py", "cell/Makefile", "cell/cell.c", "pyproject.toml"} <= names
    assert {f"supervisor/audit/native/{name}" for name in ("Makefile", "frames.c")} <= names
    assert not [name for name in names if ".output/" in name]


def test_editable_install_reads_the_tree() -> None:
    assert not (Path(sysconfig.get_path("purelib")) / "supervisor").exists()


@pytest.mark.parametrize("code", ["import supervisor.client", "import supervisor.cli.main"])
def test_client_needs_the_base_install_only(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDE, code, *DAEMON_MODULES],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_module_of_the_daemon_would_be_missed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDE, "import pydantic", *DAEMON_MODULES],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert "ModuleNotFoundError" in done.stderr
