"""What the room promises as a whole: the shipped profiles, and a README that is true of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor.profile import syscalls
from supervisor.profile.explain import Exposure, explain
from supervisor.profile.lint import LINES_MAX, REQUIRED
from supervisor.profile.load import ProfileSet
from supervisor.profile.schema import (
    FRAGMENT_KEYS,
    PROFILE_KEYS,
    Drop,
    Files,
    LimitsEntry,
    RecordEntry,
    Syscalls,
)

FOLDER = Path(__file__).parents[3] / "profiles"
README = (FOLDER / "README.md").read_text()
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))
FRAGMENTS = sorted(path.stem for path in FOLDER.glob("fragments/*.yaml"))


@pytest.fixture(scope="module")
def shipped() -> ProfileSet:
    return ProfileSet.load([FOLDER])


def test_the_profiles_of_the_issue_are_there() -> None:
    assert {"base", "shell", "python", "node"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_profile_observes(shipped: ProfileSet, name: str) -> None:
    profile = shipped.effective(name)
    assert (profile.mode, profile.syscalls.watch) == ("enforce", frozenset())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profiles_are_without_problems(shipped: ProfileSet, name: str) -> None:
    assert [problem.render() for problem in shipped.problems(name)] == []
    assert shipped.stray == ()


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


OPEN = ("build", "github", "terminal")


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in OPEN])
def test_shipped_profiles_leave_every_wall_closed(shipped: ProfileSet, name: str) -> None:
    rows = explain(shipped.effective(name))
    assert [row.wall for row in rows if row.exposure is not Exposure.CLOSED] == []


def test_build_opens_nothing_but_programs(shipped: ProfileSet) -> None:
    rows = explain(shipped.effective("build"))
    assert [row.wall for row in rows if row.exposure is not Exposure.CLOSED] == ["programs"]


def test_terminal_opens_nothing_but_terminals(shipped: ProfileSet) -> None:
    rows = explain(shipped.effective("terminal"))
    assert [row.wall for row in rows if row.exposure is not Exposure.CLOSED] == ["terminal"]


def test_github_opens_nothing_but_its_host(shipped: ProfileSet) -> None:
    profile = shipped.effective("github")
    assert [rule.name for rule in profile.egress] == ["api.github.com:443"]
    open_rows = [row.wall for row in explain(profile) if row.exposure is not Exposure.CLOSED]
    assert open_rows == ["no way out", "egress api.github.com:443"]


@pytest.mark.parametrize("name", FRAGMENTS)
def test_shipped_fragments_can_be_used(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"profile: mine\nextends: base\nuse: [{name}]\nwhy: A test.\n"
    )
    assert ProfileSet.load([FOLDER, tmp_path]).effective("mine").lineage == ("mine", "base")


def test_the_example_of_the_readme_is_a_profile(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert found
    (tmp_path / "report.yaml").write_text(found.group(1))
    profile = ProfileSet.load([FOLDER, tmp_path]).effective("report")
    assert "memfd_create" in profile.syscalls.allow
    assert "PYTHONUNBUFFERED" not in profile.env


def test_the_example_of_egress_is_a_profile(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(profile: triage.*?)```", README, re.DOTALL)
    (tmp_path / "triage.yaml").write_text(text)
    profile = ProfileSet.load([FOLDER, tmp_path]).effective("triage")
    assert [rule.name for rule in profile.egress] == [
        "*.assets.example.com:443", "10.2.0.0/24:5432,6432-6440", "api.github.com:443",
    ]  # fmt: skip
    assert [use.env for use in profile.secrets] == ["STOCKADE_SECRET_GITHUB"]


@pytest.mark.parametrize("name", [*SHIPPED, *FRAGMENTS])
def test_the_readme_names_what_is_shipped(name: str) -> None:
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("name", sorted(syscalls.SETS))
def test_the_readme_names_every_set(name: str) -> None:
    assert f"| `{name}` |" in README


def test_the_readme_names_no_other_set() -> None:
    assert set(re.findall(r"`(@[a-z-]+)`", README)) == set(syscalls.SETS)


SECTIONS = {
    "files": Files, "syscalls": Syscalls, "limits": LimitsEntry, "record": RecordEntry,
}  # fmt: skip


def test_the_readme_names_every_key_and_no_other() -> None:
    wanted = [key for key in PROFILE_KEYS if key not in SECTIONS]
    wanted += [
        f"{key}.{name}" for key, model in SECTIONS.items() for name in model.model_fields
    ]  # fmt: skip
    table = README.partition("| key | meaning")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert sorted(re.findall(r"`([a-z.]+)`", "".join(rows))) == sorted(wanted)
    assert all(f"`{name}`" in README for name in Drop.model_fields)
    assert f"`{FRAGMENT_KEYS[0]}`" in README


def test_the_readme_keeps_the_order_of_the_keys() -> None:
    table = README.partition("| key | meaning")[2].partition("\n\n")[0]
    first = [key for key in PROFILE_KEYS if f"\n| `{key}" in table]
    assert first == list(PROFILE_KEYS)
    places = [table.index(f"\n| `{key}") for key in PROFILE_KEYS]
    assert places == sorted(places)


def test_required_keys_are_set_by_base() -> None:
    text = (FOLDER / "base.yaml").read_text()
    assert all(f"{key[-1]}: " in text for key in REQUIRED)
