"""The dashboard that is checked in is the one that its code gives, and asks for what there is."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.style.tree import ROOT
from tests.support.figures import named, series
from tests.support.promtool import promtool

CODE = ROOT / "docs/monitoring/dashboard.py"


@pytest.fixture(scope="module")
def dashboard() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("stockade_dashboard", CODE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their annotations there
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


def test_it_is_what_its_code_gives(dashboard: ModuleType) -> None:
    assert CODE.with_name("dashboard.json").read_text() == dashboard.made(), "run `make dashboard`"


def test_every_panel_has_a_number_and_asks_for_something(dashboard: ModuleType) -> None:
    panels = json.loads(dashboard.made())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        if panel["type"] != "row":
            targets = panel["targets"]
            assert targets
            assert len({target["refId"] for target in targets}) == len(targets)
            assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}


def test_it_asks_for_what_there_is(dashboard: ModuleType) -> None:
    for expression in dashboard.expressions():
        assert named(expression)
        assert named(expression) <= series()


def test_prometheus_can_read_what_it_asks(dashboard: ModuleType, tmp_path: Path) -> None:
    assert check(dashboard.expressions(), tmp_path) == 0
    assert check(["sum(rate(stockade_calls_total))"], tmp_path) != 0


def check(expressions: list[str], folder: Path) -> int:
    """Have Prometheus's tool read expressions, as rules: it has no other check of them."""
    rules = [
        {"record": f"panel:{number}", "expr": _filled(expression)}
        for number, expression in enumerate(expressions)
    ]
    path = folder / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    return promtool("check", "rules", path).returncode


def _filled(expression: str) -> str:
    """Give an expression with values for Grafana's variables."""
    return expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
