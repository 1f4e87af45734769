"""What the documents say is what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from re import _parser  # type: ignore[attr-defined]  # reads the expression as the rules do
from typing import Any

import pytest

from supervisor import errors
from supervisor.api import config
from supervisor.audit.entry import Kind
from supervisor.audit.redaction import rules
from supervisor.call import outcome, state
from supervisor.profile.load import ProfileSet
from tests.style.tree import ROOT, files

DOCUMENTS = [p for p in files() if p.suffix == ".md" and p.parts[0] != "tests"]
LIFECYCLE = (ROOT / "docs/lifecycle.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
FIGURE = re.compile(r"\d\s?(ms|µs|MB/s|MiB/s|calls/s|calls a second)\b")


def test_every_target_is_explained() -> None:
    explained = set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.M))
    phony = set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[0].split())
    assert explained == TARGETS == phony


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, Path("Vagrantfile"), Path(".ci/run"), Path("tests/README.md")], ids=str
)
def test_commands_exist(path: Path) -> None:
    text = (ROOT / path).read_text()
    named = set(re.findall(r"(?:^|`|&& |exec |\s{4})make ([a-z][a-z-]*)", text, re.M))
    assert named <= TARGETS


def test_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / path).read_text())
    dead = [to for to in links if "://" not in to and not (ROOT / path.parent / to).exists()]
    assert not dead


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_figures_say_how_to_get_them_again(path: Path) -> None:
    for section in re.split(r"^#+ ", (ROOT / path).read_text(), flags=re.M):
        assert not FIGURE.search(section) or "make bench" in section, section[:80]


def test_state_diagram() -> None:
    blocks = re.findall(r"```mermaid\n(.*?)\n```", LIFECYCLE, re.S)
    assert state.diagram() in blocks


def test_errors_table() -> None:
    table = "\n".join(
        f"| `{e.__name__}` | {e.code} | {e.exit_code} | {_first_sentence(e.__doc__ or '')} |"
        for e in errors.StockadeError.__subclasses__()
    )
    assert f"|---|---|---|---|\n{table}\n" in LIFECYCLE, f"put in:\n{table}"


def _first_sentence(docstring: str) -> str:
    return docstring.split("\n\n")[0].strip().rstrip(".")


def test_outcomes_table() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| ", LIFECYCLE, re.M)
    assert rows == list(outcome.KINDS.values())


def test_entry_kinds_table() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| ", (ROOT / "docs/record.md").read_text(), re.M)
    assert rows == [str(kind) for kind in Kind]


WHERE = {
    "anywhere": ("{}",),
    "alone, or last behind `_`, `.` or `-`": ("^{}$", "_{}$"),
    "last behind `_`, `.` or `-`": ("_{}$",),
    "last": ("{}$",),
    "alone": ("^{}$",),
}


def test_names_that_say_secret() -> None:
    """The table has each word of the rule, where the rule takes it, and no other."""
    _, _, section = (ROOT / "docs/record.md").read_text().partition("### Names that say secret\n")
    section = section.partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z].*) \| (`.*`) \|$", section, re.M)
    words = {where: re.findall(r"`([^`]+)`", listed) for where, listed in rows}
    assert list(words) == list(WHERE)
    (rule,) = [one for one in rules.shipped().all if one.of == "name"]
    listed = {
        form.format(word) for where in words for word in words[where] for form in WHERE[where]
    }
    assert listed == set(_written(list(_parser.parse(rule.source))))
    (counted,) = re.findall(r"^So (.*?) do, and so do (.*?) and the", section, re.M)
    (others,) = re.findall(r" These do not: (.*?)\.\n", section, re.S)
    pack = rules.shipped()
    for name in re.findall(r"`(\w+)`", " ".join(counted)):
        assert pack.is_telling(name.encode()) and pack.is_telling(name.lower().encode()), name
    for name in re.findall(r"`(\w+)`", others):
        assert not pack.is_telling(name.encode()) and not pack.is_telling(name.lower().encode())


def _written(items: list[Any]) -> Iterator[str]:
    """Give each text that an expression is for, `_` where it takes one of several separators."""
    if not items:
        yield ""
        return
    (kind, value), rest = items[0], items[1:]
    match str(kind):
        case "LITERAL":
            heads: Iterable[str] = [chr(value)]
        case "IN":
            heads = "_"
        case "AT":
            heads = ["^" if str(value) == "AT_BEGINNING" else "$"]
        case "BRANCH":
            heads = (one for branch in value[1] for one in _written(list(branch)))
        case "SUBPATTERN":
            heads = _written(list(value[3]))
        case "MAX_REPEAT":  # what may be left out is written, unless it is letters
            inner = list(value[2])
            heads = _written(inner) if str(inner[0][0]) == "IN" else ["", *_written(inner)]
        case other:
            raise AssertionError(other)
    heads = list(heads)
    for tail in _written(rest):
        yield from (head + tail for head in heads)


def test_example_configuration_loads(tmp_path: Path) -> None:
    (example,) = _yaml_examples("callers:")
    (tmp_path / "config.yaml").write_text(example)
    assert config.load(tmp_path / "config.yaml").callers[0].name == "agent"


def test_example_profile_loads(tmp_path: Path) -> None:
    (example,) = _yaml_examples("profile: mine")
    (tmp_path / "mine.yaml").write_text(example)
    profiles = ProfileSet.load([ROOT / "profiles", tmp_path])
    assert not profiles.problems("mine")
    assert profiles.effective("mine").lineage


def _yaml_examples(start: str) -> list[str]:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return [block for block in blocks if block.startswith(start)]
