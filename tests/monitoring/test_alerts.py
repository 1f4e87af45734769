"""Each alert fires where it should and nowhere else, by Prometheus's own tool, and says what to do:
in itself, and where its runbook leads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.style.tree import ROOT
from tests.support.figures import named, series
from tests.support.promtool import promtool

FOLDER = ROOT / "docs/monitoring"
RULES = FOLDER / "alerts.yaml"
TESTS = FOLDER / "alerts.test.yaml"
ALERTS: list[dict[str, Any]] = YAML(typ="safe").load(RULES)["groups"][0]["rules"]
TRIED = [one["name"] for one in YAML(typ="safe").load(TESTS)["tests"]]
NAMES = [alert["alert"] for alert in ALERTS]


def test_the_rules_are_right() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_each_fires_where_it_should_and_nowhere_else() -> None:
    done = promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_each_is_tried_in_both_ways(name: str) -> None:
    assert f"{name} fires" in TRIED
    assert f"{name} stays silent" in TRIED


def test_a_rule_that_never_fires_would_be_found(tmp_path: Path) -> None:
    rules, tests = (YAML(typ="safe").load(path) for path in (RULES, TESTS))
    [rule] = [one for one in ALERTS if one["alert"] == "StockadeSinkDown"]
    rules["groups"][0]["rules"] = [rule | {"expr": "stockade_sink_up == 2"}]
    tests["tests"] = [one for one in tests["tests"] if one["name"] == f"{rule['alert']} fires"]
    for path, content in ((RULES, rules), (TESTS, tests)):
        (tmp_path / path.name).write_text(json.dumps(content))
    done = promtool("test", "rules", tmp_path / TESTS.name)
    assert done.returncode != 0
    assert rule["alert"] in done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_it_looks_at_what_there_is(alert: dict[str, Any]) -> None:
    found = named(alert["expr"])
    assert found <= series()
    assert found or alert["alert"] == "StockadeDown"


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_it_says_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor in anchors(ROOT / path)
    assert f"`{alert['alert']}`" in section(ROOT / path, anchor)


def anchors(path: Path) -> set[str]:
    """Give the anchors of a document's headings, as GitHub makes them."""
    return {_anchor(title) for title in re.findall(r"^#+ (.*)$", path.read_text(), re.M)}


def section(path: Path, anchor: str) -> str:
    """Give the text below a heading."""
    parts = re.split(r"^#+ (.*)$", path.read_text(), flags=re.M)
    titles = [_anchor(title) for title in parts[1::2]]
    return parts[2 + 2 * titles.index(anchor)]


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
