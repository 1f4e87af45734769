"""Every metric stands in docs/monitoring.md, with what it means, and has a name as it should be."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from tests.style.tree import ROOT
from tests.support.figures import families, name_of, named, series
from tests.support.promtool import promtool

DOCUMENT = ROOT / "docs/monitoring.md"


def ours() -> list[Metric]:
    return [family for family in families() if family.name.startswith("stockade_")]


def test_the_table_is_what_prometheus_is_told() -> None:
    table = "\n".join(
        f"| `{name_of(family)}` | {family.type} | {family.documentation} |"
        for family in sorted(ours(), key=name_of)
    )
    assert f"|---|---|---|\n{table}\n" in DOCUMENT.read_text(), f"put in:\n{table}"


def test_documents_name_no_other() -> None:
    for path in (DOCUMENT, ROOT / "docs/operations.md"):
        assert named(path.read_text()) <= series()


def test_each_says_what_it_is_in_a_sentence() -> None:
    for family in ours():
        assert re.fullmatch(r"[A-Z0-9].*[.:]?\.", family.documentation), family.name


def test_names_and_units() -> None:
    registry = CollectorRegistry()
    registry.register(Told())
    done = promtool("check", "metrics", text=generate_latest(registry).decode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_wrong_name_would_be_found() -> None:
    done = promtool("check", "metrics", text="# HELP a_ms A.\n# TYPE a_ms counter\na_ms 1\n")
    assert done.returncode != 0


class Told(Collector):
    """Tells what a daemon tells."""

    def collect(self) -> list[Metric]:
        return list(families())
