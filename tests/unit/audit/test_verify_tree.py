"""The tree of a log against its entries: whatever is changed on either side is named."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.audit import notes
from supervisor.audit.checkpoints import Checkpoint
from supervisor.audit.entry import NO_LEAF, Head, Position, StoredEntry, encode_entry, leaf_hash
from supervisor.audit.notes import VerifierKey
from supervisor.audit.runs import Run
from supervisor.audit.tiles import WIDTH
from supervisor.audit.tree import LogTree
from supervisor.audit.verify_log import Problem
from supervisor.audit.verify_tree import NAMED_MAX, TreeCheck
from tests.unit.audit import rfc6962
from tests.unit.audit.keys import ORIGIN, TestSigner

SIGNER = TestSigner()
OTHER = TestSigner(seed=bytes(32))
COUNT = 2 * WIDTH + 40
REWRITTEN = "{}: the log's first {} entries have not the root that was signed: it was rewritten"

NO_HEAD = (
    "there is no signed head of the log: tlog/checkpoint is missing. Put it back from a copy: a "
    "daemon that finds none signs what log it has"
)


def made(count: int, *, changed: int = -1, later_s: Sequence[int] = ()) -> list[StoredEntry]:
    """Make a log whose entry `changed`, and so each one after it, is another; the last ones were
    written so many seconds after the others."""
    entries, previous = list[StoredEntry](), NO_LEAF
    for index in range(count):
        at = index - count + len(later_s)
        time_ns = later_s[at] * 10**9 if at >= 0 else index
        head = Head(index=index, prev=previous, time_ns=time_ns, kind="blob", call="", sequence=0)
        payload = encode_entry(head, {"n": -1 if index == changed else index})
        previous = leaf_hash(payload)
        entries.append(
            StoredEntry(
                head=head,
                json=payload,
                leaf=previous.hex(),
                position=Position(segment=0, offset=8 + index),
            )
        )
    return entries


def grown(
    folder: Path, entries: Sequence[StoredEntry], signer: TestSigner = SIGNER, *, step: int = COUNT
) -> None:
    """Make the tree of a log, with a head each `step` entries."""
    payloads = [entry.json for entry in entries]
    tree = LogTree(folder, signer, lambda index: iter(payloads[index:]), clock=lambda: 0.0)
    tree.load(0)
    for begin in range(0, len(payloads), step):
        part = payloads[begin : begin + step]
        tree.extend([(payload, leaf_hash(payload)) for payload in part])
        tree.publish()


@pytest.fixture(scope="module")
def entries() -> list[StoredEntry]:
    return made(COUNT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, entries: list[StoredEntry]) -> Path:
    folder = tmp_path_factory.mktemp("state") / "tlog"
    grown(folder, entries, step=13)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tlog"))


def check(
    folder: Path,
    entries: Sequence[StoredEntry],
    *,
    key: VerifierKey | None = SIGNER.key,
    heads: Sequence[tuple[str, bytes]] = (),
    live: bool = False,
) -> tuple[list[str], TreeCheck]:
    """Check a tree with entries that come in runs of many sizes: what is found is the same."""
    found: list[list[str]] = []
    for length in (1, 7, WIDTH + 3, len(entries) or 1):
        problems: list[Problem] = []
        tree = TreeCheck(folder, problems.append, key=key, heads=heads, live=live)
        tree.begin()
        for begin in range(0, len(entries), length):
            tree.take(run_of(entries[begin : begin + length]))
        tree.finish(len(entries))
        found.append(list(map(str, problems)))
    assert all(one == found[0] for one in found)
    return found[0], tree


def run_of(entries: Sequence[StoredEntry]) -> Run:
    run, *more = map(Run.of, entries)
    for other in more:
        run.payloads += other.payloads
        run.leaves += other.leaves
        run.tails += other.tails
        run.offsets += other.offsets
    return run


def head_of(entries: Sequence[StoredEntry], signer: TestSigner = SIGNER) -> bytes:
    root = rfc6962.mth([entry.json for entry in entries])
    head = Checkpoint(origin=ORIGIN, size=len(entries), root=root)
    return notes.sign(head.text(), [signer]).encode()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_tree_of_its_log_holds(whole: Path, entries: list[StoredEntry]) -> None:
    problems, tree = check(whole, entries)
    assert problems == []
    assert tree.head is not None
    assert (tree.head.size, tree.head.origin) == (COUNT, ORIGIN)


def test_entries_that_no_head_is_over_yet_do_no_harm(whole: Path) -> None:
    assert check(whole, made(COUNT + 5))[0] == []


def test_entries_of_more_than_a_minute_that_nobody_signed(whole: Path) -> None:
    """An old head in the place of the last, and another end of the log behind it."""
    assert check(whole, made(COUNT + 4, later_s=[900, 910, 920, 960]))[0] == []
    for times in ([900, 910, 920, 961], [961, 910, 920, 900], [930, 900, 961, 930]):
        late = made(COUNT + 4, later_s=times)
        assert check(whole, late)[0] == [
            f"checkpoint: it is over {COUNT} of {COUNT + 4} entries; those after it are of 61 s, "
            "and nobody signed them"
        ]
        assert check(whole, late, live=True)[0] == []


def test_an_empty_log_holds(tmp_path: Path) -> None:
    grown(tmp_path / "tlog", [])
    assert check(tmp_path / "tlog", [])[0] == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(str(path.name)).randrange(len(data))] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(32))


def turn(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[32:64] + data[:32] + data[64:])


CHANGES: list[Callable[[Path], None]] = [flip, cut, Path.unlink, lengthen, turn]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_is_done_to_a_file_is_found_and_named(
    change: Callable[[Path], None], folder: Path, entries: list[StoredEntry]
) -> None:
    names = [str(path.relative_to(folder)) for path in files_of(folder)]
    assert len(names) > 12
    for name in names:
        path, good = folder / name, (folder / name).read_bytes()
        if change is turn and len(good) < 64:
            continue
        if change is Path.unlink and _is_of_a_former_head(name):
            continue  # It may be taken away, and is.
        change(path)
        problems, _ = check(folder, entries)
        path.write_bytes(good)
        named = "signed head" if name == "checkpoint" and change is Path.unlink else name
        assert [one for one in problems if named in one], (name, problems)
    assert check(folder, entries)[0] == []


def _is_of_a_former_head(name: str) -> bool:
    own = {str(COUNT % WIDTH), str(COUNT // WIDTH)}
    return ".p/" in name and name.rpartition("/")[2] not in own


def test_two_tiles_that_have_changed_places_are_named(
    folder: Path, entries: list[StoredEntry]
) -> None:
    for level in ("0", "entries"):
        one, other = (folder / "tile" / level / name for name in ("000", "001"))
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        problems, _ = check(folder, entries)
        assert f"tile/{level}/000" in str(problems)
        assert f"tile/{level}/001" in str(problems)
        one.write_bytes(first)
        other.write_bytes(second)


def test_what_does_not_belong_there_is_named(folder: Path, entries: list[StoredEntry]) -> None:
    (folder / "tile" / "0" / "more").write_bytes(b"")
    assert check(folder, entries)[0] == ["tile/0/more does not belong into the tree of a log"]
    for number in range(NAMED_MAX + 5):
        (folder / f"x{number}").write_bytes(b"")
    assert len(check(folder, entries)[0]) == NAMED_MAX


@pytest.mark.parametrize("changed", [0, 255, 256, COUNT - 1])
def test_an_entry_that_was_changed_with_all_after_it_is_named(changed: int, whole: Path) -> None:
    """The chain of a rewritten log holds: only what was signed tells."""
    problems, _ = check(whole, made(COUNT, changed=changed))
    assert f"entry {changed} (blob): it is not the entry that was signed" in str(problems)
    assert f"entry {changed - 1} " not in str(problems)
    assert len(problems) < NAMED_MAX + 10


@pytest.mark.parametrize("gone", [0, 100, 300, COUNT - 1])
def test_an_entry_that_is_missing(gone: int, whole: Path, entries: list[StoredEntry]) -> None:
    again = [
        replace(entry, head=replace(entry.head, index=index))
        for index, entry in enumerate([*entries[:gone], *entries[gone + 1 :]])
    ]
    problems, _ = check(whole, again)
    assert f"a head over {COUNT} entries was signed, and the log has {COUNT - 1}" in problems
    if gone < COUNT - 1:
        assert f"entry {gone} (blob): it is not the entry that was signed" in str(problems)


def test_a_log_and_tiles_that_were_both_made_anew_have_not_the_signed_root(
    folder: Path,
) -> None:
    forged, head = made(COUNT, changed=7), (folder / "checkpoint").read_bytes()
    shutil.rmtree(folder)
    grown(folder, forged)
    (folder / "checkpoint").write_bytes(head)
    assert f"the log's first {COUNT} entries have not the root" in str(check(folder, forged)[0])


def test_a_log_that_another_key_signed_is_not_that_log(folder: Path) -> None:
    forged = made(COUNT, changed=7)
    shutil.rmtree(folder)
    grown(folder, forged, OTHER)
    (problem,) = check(folder, forged)[0]
    ids = OTHER.key.key_id.hex(), SIGNER.key.key_id.hex()
    assert "signed as {} by the key {}, and not by {}".format(ORIGIN, *ids) in problem
    assert check(folder, forged, key=OTHER.key)[0] == []


def test_a_log_of_the_key_beside_it_is_not_called_damaged(
    whole: Path, entries: list[StoredEntry]
) -> None:
    found: list[Problem] = []
    kept = [("mine", head_of(made(5, changed=2), OTHER)), ("its", head_of(entries[:5]))]
    tree = TreeCheck(whole, found.append, key=OTHER.key, beside=SIGNER.key, heads=kept)
    tree.begin()
    tree.take(run_of(entries))
    tree.finish(len(entries))
    assert [problem.reason for problem in found] == ["key_of_other_log", "head_rewritten"]
    assert OTHER.key.key_id.hex() in found[0].message
    assert SIGNER.key.key_id.hex() in found[0].message
    assert [head.verdict for head in tree.heads] == ["head_rewritten", "untold"]


@pytest.mark.parametrize("gone", [f"tile/0/{COUNT // WIDTH:03d}.p/{COUNT % WIDTH}", "tile/0/000"])
def test_a_tile_that_is_missing_is_named_once(
    gone: str, folder: Path, entries: list[StoredEntry]
) -> None:
    (folder / gone).unlink()
    (problem,) = check(folder, entries)[0]
    assert problem == f"{gone} is missing" + (", and so is the full one" if ".p/" in gone else "")


def test_a_head_that_was_kept_tells_a_log_that_was_rewritten_by_who_has_its_key(
    folder: Path, entries: list[StoredEntry]
) -> None:
    forged = made(COUNT, changed=300)
    shutil.rmtree(folder)
    grown(folder, forged)
    assert check(folder, forged)[0] == []  # The control: it fits itself.
    kept = [("before", head_of(entries[:300])), ("after", head_of(entries[:301]))]
    problems, tree = check(folder, forged, heads=kept)
    assert problems == [REWRITTEN.format("after", 301)]
    assert tree.consistent == 1


def test_a_head_that_was_kept_tells_a_log_that_was_cut_back(
    folder: Path, entries: list[StoredEntry]
) -> None:
    shutil.rmtree(folder)
    grown(folder, entries[:400])
    assert check(folder, entries[:400])[0] == []  # The control.
    (problem,) = check(folder, entries[:400], heads=[("kept", head_of(entries))])[0]
    assert problem == f"kept: it is over {COUNT} entries, and the log has 400: it was cut back"


def test_a_receipt_may_be_newer_than_the_head_in_the_folder(
    folder: Path, entries: list[StoredEntry]
) -> None:
    shutil.rmtree(folder)
    grown(folder, entries[:400])
    newer = [("kept", head_of(entries[:500]))]
    problems, tree = check(folder, entries, heads=newer)
    assert problems == []
    assert tree.consistent == 1
    problems, _ = check(folder, [*entries[:450], *made(COUNT, changed=450)[450:]], heads=newer)
    assert problems == [REWRITTEN.format("kept", 500)]


def test_what_is_no_head_of_the_log_is_told(whole: Path, entries: list[StoredEntry]) -> None:
    heads = [("mine", b"nothing"), ("theirs", head_of(entries[:5], OTHER))]
    problems, tree = check(whole, entries, heads=heads)
    assert [problem.partition(":")[0] for problem in problems] == ["mine", "theirs"]
    assert tree.consistent == 0


def test_there_has_to_be_a_head(tmp_path: Path, entries: list[StoredEntry]) -> None:
    problems, tree = check(tmp_path / "tlog", entries)
    assert problems == [NO_HEAD]
    assert tree.head is None


def test_a_rotation_that_cannot_be_read_is_named(folder: Path) -> None:
    head = Head(index=0, prev=NO_LEAF, time_ns=1, kind="key_rotated", call="", sequence=0)
    payload = encode_entry(head, {}).replace(b'{"body":{}', b'{"body":[]')
    leaf = leaf_hash(payload).hex()
    entry = StoredEntry(head=head, json=payload, leaf=leaf, position=Position(segment=0, offset=8))
    found: list[Problem] = []
    check = TreeCheck(folder, found.append, key=SIGNER.key, heads=())
    check.begin()
    check.take(Run.of(entry))
    assert any("entry 0: its body is not that of its kind" in one.message for one in found)


def test_each_head_that_was_kept_has_its_own_verdict(
    whole: Path, entries: list[StoredEntry]
) -> None:
    theirs = TestSigner("log.example.com/other")
    other = Checkpoint(origin=theirs.key.name, size=5, root=bytes(32))
    heads = [
        ("fits", head_of(entries[:5])),
        ("head_of_other_key", head_of(entries[:5], OTHER)),
        ("head_of_other_log", notes.sign(other.text(), [theirs]).encode()),
        ("head_unreadable", b"nothing"),
        ("head_cut_back", head_of(made(COUNT + 1))),
        ("head_rewritten", head_of(made(5, changed=2))),
    ]
    problems, tree = check(whole, entries, heads=heads)
    assert [head.verdict for head in tree.heads] == [name for name, _ in heads]
    assert [head.size for head in tree.heads] == [5, 5, 5, -1, COUNT + 1, 5]
    assert [problem.partition(":")[0] for problem in problems] == [name for name, _ in heads[1:]]
    assert "is a head of the log log.example.com/other, and this is" in problems[1]
    assert tree.consistent == 1


def test_heads_that_were_kept_are_held_to_a_log_without_its_own(
    tmp_path: Path, entries: list[StoredEntry]
) -> None:
    heads = [("kept", head_of(entries[:300])), ("other", head_of(made(300, changed=2)))]
    problems, tree = check(tmp_path / "tlog", entries, heads=heads)
    assert problems == [NO_HEAD, REWRITTEN.format("other", 300)]
    assert [head.verdict for head in tree.heads] == ["fits", "head_rewritten"]
