"""`profile`: the daemon's, or a folder's; problems with a caret."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from supervisor.cli.folders import shipped_profiles
from supervisor.v1 import profile_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client.fake_daemon import FakeDaemon

SUMMARY = profile_pb2.ProfileSummary(name="python", why="why\x1b", digest="d" * 64, mode="enforce")


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("profile: mine\nextends: base\nwhy: Mine.\nlimits: {wall: 60x}\n")
    return path


def good(folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"profile: {name}\nextends: base\nwhy: Mine.\n")
    return path


def test_ls(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("ListProfiles", lambda _: profile_pb2.ListProfilesResponse(profiles=[SUMMARY]))
    header, row = stockade("profile", "ls").stdout.splitlines()
    assert header.split() == ["PROFILE", "DIGEST", "MODE", "WHY"]
    assert row.split() == ["python", "d" * 12, "enforce", "why\\e"]
    (found,) = json.loads(stockade("profile", "ls", "--json").stdout)
    assert (found["name"], found["digest"], found["why"]) == ("python", "d" * 64, "why\x1b")


def test_ls_of_a_folder(stockade: Stockade, wrong: Path) -> None:
    folders = ["--dir", str(wrong.parent)]
    found = json.loads(stockade("profile", "ls", "--json", *folders).stdout)
    assert {row["name"]: row["problems"] for row in found}["mine"] == 1
    assert {row["name"]: row["problems"] for row in found}["python"] == 0
    assert "1 problem: see lint" in stockade("profile", "ls", *folders).stdout


def test_a_folder_s_profiles_stand_beside_the_shipped_ones(
    stockade: Stockade, tmp_path: Path
) -> None:
    good(tmp_path, "good")
    for verb in (["explain"], ["show"]):
        assert stockade("profile", *verb, "--dir", tmp_path, "good").exit_code == 0
        alone = stockade("profile", *verb, "--dir", tmp_path, "--alone", "good")
        assert alone.exit_code == 2
        assert f"looked up in {tmp_path}" in alone.stderr
    names = {row["name"] for row in rows(stockade, tmp_path)}
    assert {"good", "python", "base"} <= names
    assert [row["name"] for row in rows(stockade, tmp_path, "--alone")] == ["good"]


def rows(stockade: Stockade, folder: Path, *options: str) -> list[dict[str, object]]:
    listed = stockade("profile", "ls", "--json", "--dir", folder, *options)
    found: list[dict[str, object]] = json.loads(listed.stdout)
    return found


@pytest.mark.parametrize("options", [[], ["--alone"]])
def test_ls_and_lint_agree(stockade: Stockade, wrong: Path, options: list[str]) -> None:
    good(wrong.parent, "good")
    good(wrong.parent, "node")  # stands twice, unless alone
    linted = stockade("profile", "lint", "--json", *options, wrong.parent)
    problems: dict[str, int] = {}
    for problem in json.loads(linted.stdout):
        name = Path(problem["file"]).stem
        problems[name] = problems.get(name, 0) + 1
    listed = rows(stockade, wrong.parent, *options)
    assert {row["name"]: row["problems"] for row in listed if row["problems"]} == problems
    assert ("node" in problems) and ("good" in problems) == bool(options)


def test_a_problem_that_two_ways_lead_to_is_one(stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "fragments").mkdir()
    (tmp_path / "fragments" / "part.yaml").write_text("fragment: part\nspell: 1\n")
    for name, parent in (("one", "base"), ("two", "one")):
        path = good(tmp_path, name)
        path.write_text(f"profile: {name}\nextends: {parent}\nuse: [part]\nwhy: Mine.\n")
    found = json.loads(stockade("profile", "lint", "--json", tmp_path).stdout)
    counts = {row["name"]: row["problems"] for row in rows(stockade, tmp_path)}
    assert (counts["one"], counts["two"]) == (len(found), len(found))


def test_ls_tells_of_files_that_are_no_profile_s(stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("profile: mine\n")
    said = stockade("profile", "ls", "--dir", tmp_path)
    assert "1 problem in files that are no profile's: see lint" in said.stderr
    assert stockade("profile", "lint", tmp_path).exit_code == 2


@pytest.mark.parametrize("verb", [["ls"], ["show", "x"], ["explain", "x"]])
def test_alone_is_for_folders(stockade: Stockade, verb: list[str]) -> None:
    assert stockade("profile", *verb, "--alone").exit_code == 2


def test_explain_on_a_narrow_terminal(stockade: Stockade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.cli.output.columns", lambda: 80)
    lines = stockade(
        "profile", "explain", "--dir", shipped_profiles(), "python"
    ).stdout.splitlines()
    assert any(line.startswith("syscalls: ") for line in lines)
    assert any(line.startswith("  at worst  ") for line in lines)
    assert max(map(len, lines)) <= 80
    monkeypatch.setattr("supervisor.cli.output.columns", lambda: 120)
    assert (
        "AT WORST"
        in stockade(
            "profile", "explain", "--dir", shipped_profiles(), "python"
        ).stdout.splitlines()[0]
    )


def test_show(daemon: FakeDaemon, stockade: Stockade) -> None:
    lines = [
        profile_pb2.ProfileLine(path="limits.wall", value_json='"60s"', file="base.yaml", line=3),
        profile_pb2.ProfileLine(path="mode", value_json='"enforce"'),
    ]
    answer = profile_pb2.GetProfileResponse(summary=SUMMARY, canonical_json=b"{}", lines=lines)
    daemon.play("GetProfile", lambda _: answer)
    shown = stockade("profile", "show", "python").stdout
    assert "limits.wall  60s      base.yaml:3" in shown
    assert "mode         enforce  built in" in shown
    assert "\x1b" not in shown
    assert stockade("profile", "show", "--canonical", "python").stdout == "{}"
    found = json.loads(stockade("profile", "show", "--json", "python").stdout)
    assert (found["canonical"], found["lines"][0]["line"]) == ({}, 3)


def test_show_of_a_folder_is_what_the_digest_is_over(stockade: Stockade) -> None:
    folder = shipped_profiles()
    canonical = stockade("profile", "show", "--dir", folder, "--canonical", "python").stdout_bytes
    shown = stockade("profile", "show", "--dir", folder, "--json", "python").stdout
    assert json.loads(shown)["summary"]["digest"] == hashlib.sha256(canonical).hexdigest()


def test_explain(daemon: FakeDaemon, stockade: Stockade) -> None:
    finding = profile_pb2.ProfileFinding(
        wall="files", setting="s", exposure=profile_pb2.EXPOSURE_NARROW, verdict="v", advice="a",
        host="h",
    )  # fmt: skip
    daemon.play("ExplainProfile", lambda _: profile_pb2.ExplainProfileResponse(findings=[finding]))
    assert stockade("profile", "explain", "python").stdout.splitlines()[1].split() == [
        "files", "narrow", "s", "v", "h", "a",
    ]  # fmt: skip
    (found,) = json.loads(stockade("profile", "explain", "--json", "python").stdout)
    assert (found["exposure"], found["host"]) == ("narrow", "h")


def test_explain_of_a_folder(stockade: Stockade) -> None:
    result = stockade("profile", "explain", "--dir", shipped_profiles(), "--json", "python")
    assert {"syscalls", "files", "resources"} <= {row["wall"] for row in json.loads(result.stdout)}


def test_a_profile_that_is_not_there(stockade: Stockade) -> None:
    result = stockade("profile", "show", "--dir", shipped_profiles(), "pyton")
    assert result.exit_code == 3
    assert "[PROFILE_NOT_FOUND]" in result.stderr
    assert f"looked up in {shipped_profiles()}" in result.stderr


def test_lint_of_what_is_shipped(stockade: Stockade) -> None:
    result = stockade("profile", "lint", shipped_profiles())
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.parametrize("whole", [True, False])
def test_lint_points_at_the_place(stockade: Stockade, wrong: Path, whole: bool) -> None:
    result = stockade("profile", "lint", wrong.parent if whole else wrong)
    assert result.exit_code == 2
    first, source, caret, *_ = result.stdout.splitlines()
    assert first.startswith(f"{wrong}:4:16: ")
    assert source.strip() == "limits: {wall: 60x}"
    assert caret.index("^") == source.index("60x")


def test_lint_json(stockade: Stockade, wrong: Path) -> None:
    result = stockade("profile", "lint", "--json", wrong)
    (problem,) = json.loads(result.stdout)
    assert (problem["file"], problem["line"], problem["column"]) == (str(wrong), 4, 16)
    assert result.exit_code == 2


def test_lint_of_one_file_says_nothing_of_others(stockade: Stockade, wrong: Path) -> None:
    assert stockade("profile", "lint", good(wrong.parent, "good")).exit_code == 0


def test_lint_alone(stockade: Stockade, tmp_path: Path) -> None:
    path = good(tmp_path, "good")
    assert stockade("profile", "lint", path).exit_code == 0
    alone = stockade("profile", "lint", "--alone", path)
    assert alone.exit_code == 2
    assert f"looked up in {tmp_path}" in alone.stderr


def test_lint_warns_of_secrets_and_does_not_show_them(stockade: Stockade, tmp_path: Path) -> None:
    path = good(tmp_path, "noted")
    path.write_text(path.read_text() + "env: {LANG: C, DB_PASS: hunter2}\n")
    other = good(tmp_path, "other")
    result = stockade("profile", "lint", path)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{path}:4:25: warning: env.DB_PASS looks like a secret")
    assert "`secrets:`" in result.stdout and "hunter2" not in result.stdout
    assert "1 file checked, 0 problems, 1 warning" in result.stderr
    assert stockade("profile", "lint", other).stdout == ""
    (found,) = json.loads(stockade("profile", "lint", "--json", tmp_path).stdout)
    assert (found["level"], found["line"], found["column"]) == ("warning", 4, 25)
    path.write_text(path.read_text().replace("base", "bass"))
    result = stockade("profile", "lint", "--json", path)
    assert result.exit_code == 2
    assert [one["level"] for one in json.loads(result.stdout)] == ["error", "warning"]


def test_lint_of_a_fragment(stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "fragments").mkdir()
    path = tmp_path / "fragments" / "part.yaml"
    path.write_text("fragment: part\nspell: 1\n")
    result = stockade("profile", "lint", path)
    assert result.exit_code == 2
    assert f"{path}:2" in result.stdout


def test_lint_shows_hostile_files_safely(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"profile: \x1b[2J\xff\n")
    result = stockade("profile", "lint", path)
    assert result.exit_code == 2
    assert b"\x1b" not in result.stdout_bytes


def test_lint_follows_links(stockade: Stockade, wrong: Path, tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    (folder / "elsewhere").mkdir(parents=True)
    link = folder / "mine.yaml"
    link.symlink_to(wrong)
    (folder / "fragments").symlink_to(folder / "elsewhere")
    (folder / "elsewhere" / "part.yaml").write_text("fragment: part\nspell: 1\n")
    (tmp_path / "way").symlink_to(folder)
    for path, found in (
        (folder, {"mine.yaml", "part.yaml"}),
        (tmp_path / "way", {"mine.yaml", "part.yaml"}),
        (link, {"mine.yaml"}),
        (tmp_path / "way" / "mine.yaml", {"mine.yaml"}),
        (folder / "fragments" / "part.yaml", {"part.yaml"}),
    ):
        result = stockade("profile", "lint", "--json", path)
        assert {Path(row["file"]).name for row in json.loads(result.stdout)} == found, path
        assert result.exit_code == 2


def test_lint_counts_the_files_that_it_was_asked_for(stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "fragments").mkdir()
    part = tmp_path / "fragments" / "part.yaml"
    part.write_text("fragment: part\nwhy: Mine.\n")
    one, other = good(tmp_path, "one"), good(tmp_path, "other")
    (tmp_path / "README.md").write_text("")
    shipped = len(list(shipped_profiles().rglob("*.yaml")))
    for paths, count in (
        ([tmp_path], 3), ([tmp_path, tmp_path / "."], 3), ([one], 1), ([one, other, part], 3),
        ([tmp_path, one], 3), ([shipped_profiles()], shipped),
        ([shipped_profiles(), one], shipped + 1),
    ):  # fmt: skip
        said = stockade("profile", "lint", *paths).stderr.splitlines()[0]
        assert said.startswith(f"stockade: {count} file"), (paths, said)


def test_lint_of_a_folder_and_a_file_says_nothing_of_the_file_s_neighbours(
    stockade: Stockade, wrong: Path
) -> None:
    path = good(wrong.parent, "good")
    assert stockade("profile", "lint", shipped_profiles(), path).exit_code == 0


def test_lint_of_what_is_no_profile_s_file(stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    (tmp_path / "mine.yml").write_text("")
    assert stockade("profile", "lint", tmp_path / "README.md").exit_code == 2
    result = stockade("profile", "lint", "--json", tmp_path / "mine.yml")
    assert [row["hint"] for row in json.loads(result.stdout)] == ["name it .yaml"]


@pytest.fixture
def config(tmp_path: Path, wrong: Path) -> Path:
    path = tmp_path / "config" / "config.yaml"
    path.parent.mkdir()
    folders = [str(shipped_profiles()), str(wrong.parent)]
    path.write_text(json.dumps({"profiles": folders}))
    return path


def test_lint_of_a_configuration(stockade: Stockade, config: Path, wrong: Path) -> None:
    result = stockade("profile", "lint", "--config", config)
    assert result.exit_code == 2
    assert result.stdout.startswith(f"{wrong}:4:16: ")
    config.write_text(json.dumps({"profiles": [str(wrong.parent)]}))
    good(wrong.parent, "good")
    messages = stockade("profile", "lint", "--config", config).stdout
    assert "there is no profile 'base'" in messages  # The shipped ones are not named.


def test_lint_reads_the_usual_configuration(
    stockade: Stockade, config: Path, wrong: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.api.config.DEFAULT_PATH", config)
    assert stockade("profile", "lint").stdout.startswith(f"{wrong}:4:16: ")
    monkeypatch.setattr("supervisor.api.config.DEFAULT_PATH", config.with_name("none"))
    assert stockade("profile", "lint").exit_code == 0


def test_lint_of_a_wrong_configuration(stockade: Stockade, config: Path) -> None:
    assert stockade("profile", "lint", "--config", config, shipped_profiles()).exit_code == 2
    config.write_text("profile: []\n")
    result = stockade("profile", "lint", "--config", config)
    assert (result.exit_code, "[CONFIG_INVALID]" in result.stderr) == (2, True)
    missing = stockade("profile", "lint", "--config", config.with_name("none"))
    assert (missing.exit_code, "[CONFIG_MISSING]" in missing.stderr) == (2, True)
