"""What TLS needs of files."""

import ssl
from pathlib import Path

import pytest

from supervisor.export.sinks.certificates import check_pair, client_context


@pytest.mark.parametrize(("certificate", "key"), [(Path("a"), None), (None, Path("b"))])
def test_one_without_the_other(certificate: Path | None, key: Path | None) -> None:
    check_pair(None, None)
    check_pair(Path("a"), Path("b"))
    with pytest.raises(ValueError, match="needs its key"):
        check_pair(certificate, key)


def test_a_file_that_is_no_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ssl.SSLError):
        client_context(tmp_path / "ca.pem", None, None)
    with pytest.raises(FileNotFoundError):
        client_context(tmp_path / "none.pem", None, None)
