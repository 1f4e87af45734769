"""Files: what is stored of them, what is told, and how they come back as they were."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from supervisor.audit import files as module
from supervisor.audit.blobs import BlobStore
from supervisor.audit.files import (
    TOLD,
    CallFiles,
    FileWriter,
    stored_as,
    stored_instead,
    told_of,
    upload,
)
from supervisor.audit.masks import Mask, Masks
from supervisor.audit.originals import Originals
from supervisor.audit.redaction.literals import RedactionFailed
from supervisor.audit.redaction.redactor import Redactor
from supervisor.call.types import Digest, Json
from supervisor.errors import (
    AuditCorrupt,
    AuditUnavailable,
    CapacityError,
    InvalidRequest,
    NotFound,
    StockadeError,
)
from supervisor.profile.model import Redact

API = b"correct-horse-battery"
TOKEN = b"ghp_" + b"a1B2" * 9


def fail(what: str, error: OSError) -> StockadeError:
    return AuditUnavailable("JOURNAL_UNAVAILABLE", f"{what}: {error}")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore.at(tmp_path / "blobs", fail)


def mask() -> Mask:
    made = Masks(bytes(32)).make(Redact(), {"api": API})
    assert made is not None
    return made


def given(blobs: BlobStore, digest: Digest) -> bytes:
    with blobs.open(digest) as reader:
        return b"".join(reader.chunks())


def test_a_file_without_secrets_is_stored_as_it_is(blobs: BlobStore) -> None:
    files = CallFiles(blobs, mask())
    data = random.Random(1).randbytes(300_000)
    digest = files.keep([data[:7], data[7:]])
    assert digest == Digest.of(data)
    assert blobs.has(digest) and given(blobs, digest) == data
    assert files.told() == {}


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_secrets_are_replaced_and_the_file_comes_back(blobs: BlobStore, size: int) -> None:
    files = CallFiles(blobs, mask())
    data = b"key=" + API + b"\n" + b"x" * 3000 + b" " + TOKEN + b"\n" + API
    digest = files.keep(data[at : at + size] for at in range(0, len(data), size))
    assert digest == Digest.of(data)
    assert not blobs.has(digest) and blobs.holds(digest)
    assert given(blobs, digest) == data
    told = files.told()
    stored = stored_instead(told)[digest.sha256]
    assert stored is not None
    on_disk = blobs.get(stored)
    assert on_disk.count(b"[REDACTED:api:") == 2
    assert API not in on_disk and TOKEN not in on_disk
    assert told == {TOLD: [[digest.sha256, len(data), stored.sha256, len(on_disk), 3]]}
    assert files.told() == {}
    files.name([digest, digest])
    assert files.told() == told

    originals, blobs.originals = blobs.originals, Originals()  # as when another daemon has it
    with pytest.raises(NotFound):
        blobs.open(digest)
    assert not blobs.holds(digest)
    blobs.originals = originals
    blobs.blob_path(stored.sha256).unlink()  # as when its time is over
    assert not blobs.holds(digest)
    with pytest.raises(NotFound):
        blobs.open(digest)


def test_what_is_stored_of_a_file_is_read_from_the_entry() -> None:
    plain, secret, failed = (Digest.of(data) for data in (b"plain", b"secret", b"failed"))
    marked = Digest.of(b"mark")
    body: dict[str, Json] = {
        TOLD: [[secret.sha256, 6, marked.sha256, 4, 1], [failed.sha256, 6, "", 0, 0]]
    }
    assert stored_as(body, plain, "a") == (plain, False)
    assert stored_as(body, secret, "a") == (marked, True)
    with pytest.raises(NotFound) as caught:
        stored_as(body, failed, "a")
    assert caught.value.reason == "OUTPUT_NOT_STORED"


def test_what_was_changed_meanwhile_is_not_given(blobs: BlobStore, tmp_path: Path) -> None:
    digest = CallFiles(blobs, mask()).keep([b"key=" + API])
    (original,) = blobs.originals.told([digest])
    assert original.stored is not None
    other = blobs.put(b"something else")
    blobs.blob_path(original.stored.sha256).write_bytes(blobs.blob_path(other.sha256).read_bytes())
    with pytest.raises(AuditCorrupt):
        given(blobs, digest)


def test_where_redaction_fails_only_the_digest_is_kept(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Redactor, data: bytes) -> bytes:
        raise RedactionFailed("on purpose")

    monkeypatch.setattr(Redactor, "feed", failing)
    files = CallFiles(blobs, mask())
    digest = files.keep([b"key=" + API, b" and more"])
    assert stored_instead(files.told()) == {digest.sha256: None}
    assert not blobs.holds(digest)
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    with upload(blobs, Masks(bytes(32)), Digest.of(b"x"), "ann") as writer:
        writer.write(b"x")
        writer.commit()
        assert writer.failed == "on purpose"


def test_a_mask_that_failed_stores_nothing(blobs: BlobStore) -> None:
    failed = Masks(bytes(32)).make(Redact(), {f"s{n}": API + b"%d" % n for n in range(300)})
    assert failed is not None and failed.failed
    files = CallFiles(blobs, failed)
    digest = files.keep([b"whatever it is"])
    assert stored_instead(files.told()) == {digest.sha256: None}
    assert not blobs.has(digest)


def test_too_many_secrets_in_a_file(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_SECRETS_MAX", 3)
    files = CallFiles(blobs, mask())
    digest = files.keep([(API + b"\n") * 4])
    assert stored_instead(files.told()) == {digest.sha256: None}


def test_too_many_files_with_secrets(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES_TOLD_MAX", 2)
    files = CallFiles(blobs, mask())
    for number in range(2):
        files.keep([API + b" %d" % number])
    with pytest.raises(CapacityError) as raised:
        files.keep([API + b" 2"])
    assert raised.value.reason == "REDACTED_FILES_LIMIT"


def test_an_upload_is_what_was_announced(blobs: BlobStore) -> None:
    masks = Masks(bytes(32))
    data = b"token: " + TOKEN + b"\n"
    with upload(blobs, masks, Digest.of(data), "ann") as writer:
        writer.write(data)
        original = writer.commit()
    assert original is not None and original.digest == Digest.of(data)
    assert given(blobs, original.digest) == data
    assert TOLD in told_of(original) and told_of(None) == {}
    for expected, sent in ((Digest.of(b"abc"), b"abd"), (Digest.of(b"abc"), b"abcd")):
        with (
            upload(blobs, masks, expected, "ann") as writer,
            pytest.raises(InvalidRequest) as raised,
        ):
            writer.write(sent)
            writer.commit()
        assert raised.value.reason == "DIGEST_MISMATCH"


def test_without_a_mask_a_file_stays_as_it_is(blobs: BlobStore) -> None:
    with FileWriter(blobs, None) as writer:
        writer.write(API)
        assert writer.commit() is None
    assert blobs.get(Digest.of(API)) == API


def test_an_entry_of_another_form_is_refused() -> None:
    assert stored_instead({}) == {}
    with pytest.raises(TypeError):
        stored_instead({TOLD: [["x"]]})
