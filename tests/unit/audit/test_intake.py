"""What is kept before INTENT, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.audit import intake as intake_module
from supervisor.audit.blobs import BlobStore
from supervisor.audit.files import CallFiles
from supervisor.audit.intake import Intake
from supervisor.call.types import Digest, InputFile
from supervisor.errors import AuditUnavailable, StockadeError
from tests.support.records import make_profile, make_request


def fail(what: str, error: OSError) -> StockadeError:
    return AuditUnavailable("JOURNAL_UNAVAILABLE", f"{what}: {error}")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore.at(tmp_path / "blobs", fail)


def test_a_profile_is_kept_once(blobs: BlobStore) -> None:
    intake, request, profile = Intake(blobs), make_request(), make_profile()
    assert intake.has_work(request, request.canonical(), profile)
    intake.keep(request, request.canonical(), profile, CallFiles(blobs, None))
    assert blobs.get(Digest.of(profile.canonical)) == profile.canonical
    assert not intake.has_work(request, request.canonical(), profile)
    other = make_profile(name="other")
    assert intake.has_work(request, request.canonical(), other)


def test_files_and_long_requests_are_kept_each_time(blobs: BlobStore) -> None:
    intake, profile = Intake(blobs), make_profile()
    intake.keep(make_request(), b"", profile, CallFiles(blobs, None))
    named = InputFile(path=b"a", digest=Digest.of(b"elsewhere"))
    inline = InputFile(path=b"b", digest=Digest.of(b"here"), data=b"here")
    request = make_request(files=(named,))
    assert not intake.has_work(request, request.canonical(), profile)
    request = make_request(files=(named, inline), argv=(b"x" * 100_000,))
    assert intake.has_work(request, request.canonical(), profile)
    intake.keep(request, request.canonical(), profile, CallFiles(blobs, None))
    assert blobs.get(inline.digest) == b"here"
    assert not blobs.has(named.digest)
    assert blobs.get(Digest.of(request.canonical())) == request.canonical()


def test_memory_of_profiles_is_bounded(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "PROFILES_KEPT_MAX", 3)
    intake, request = Intake(blobs), make_request()
    for number in range(10):
        profile = make_profile(name=f"profile-{number}")
        intake.keep(request, b"", profile, CallFiles(blobs, None))
        assert len(intake._profiles) <= 3
