"""A redacted file and what was replaced in it give the file as it was; only so much is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import originals as module
from supervisor.audit.originals import Original, Originals, Patch
from supervisor.call.types import Digest

MARK = b"[REDACTED:r:00000000]"


STORED = Digest.of(b"stored")


def made(secret: bytes, stored: Digest | None = STORED) -> Original:
    patch = Patch(at=0, mark_bytes=len(MARK), secret=secret)
    return Original(digest=Digest.of(secret), stored=stored, patches=(patch,))


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=6), st.integers(1, 40), st.data())
def test_a_file_is_restored(clear: list[bytes], size: int, data: st.DataObject) -> None:
    secrets = [data.draw(st.binary(min_size=1, max_size=30)) for _ in clear[1:]]
    whole, redacted = bytearray(clear[0]), bytearray(clear[0])
    patches = []
    for secret, after in zip(secrets, clear[1:], strict=True):
        patches.append(Patch(at=len(redacted), mark_bytes=len(MARK), secret=secret))
        whole += secret + after
        redacted += MARK + after
    digest = Digest.of(bytes(whole))
    one = Original(digest=digest, stored=Digest.of(bytes(redacted)), patches=tuple(patches))
    chunks = [bytes(redacted[at : at + size]) for at in range(0, len(redacted), size)]
    assert b"".join(one.restored(chunks)) == whole


def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ORIGINALS_BYTES_MAX", 10)
    monkeypatch.setattr(module, "ORIGINALS_MAX", 3)
    kept = Originals()
    all_of_them = [made(b"%d" % number * 4) for number in range(3)]
    for one in all_of_them:
        kept.put(one, "ann")
    assert [kept.get(one.digest) for one in all_of_them] == [None, *all_of_them[1:]]
    for number in range(4):
        kept.put(made(bytes([number])), "ann")
    assert all(kept.get(one.digest) is None for one in all_of_them)
    kept.put(made(b"x" * 11), "ann")
    assert kept.get(Digest.of(b"x" * 11)) is None


@pytest.mark.parametrize("limit", ["ORIGINALS_BYTES_MAX", "ORIGINALS_MAX"])
def test_who_has_more_pushes_out_nobody_else(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, limit, 8)
    kept = Originals()
    mine = [made(b"a"), made(b"b")]
    for one in mine:
        kept.put(one, "ann")
    theirs = [made(bytes([number])) for number in range(50)]
    for one in theirs:
        kept.put(one, "bob")
    kept.put(made(b"a"), "bob")  # the same file is of both
    assert [kept.get(one.digest) for one in mine] == mine
    assert len(kept.told(one.digest for one in theirs)) == 5
    for number in range(50):
        kept.put(made(b"%d" % number), "bob")
    assert [kept.get(one.digest) for one in mine] == mine


def test_what_is_stored_as_nothing_is_told_and_not_given() -> None:
    kept = Originals()
    kept.put(made(b"secret", stored=None), "ann")
    digest = Digest.of(b"secret")
    assert kept.get(digest) is None
    (told,) = kept.told([digest, Digest.of(b"other")])
    assert told.to_json() == [digest.sha256, 6, "", 0, 1]


def test_a_patch_does_not_show_its_secret() -> None:
    assert "hunter2" not in repr(made(b"hunter2"))
