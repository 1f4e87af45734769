"""What all entries of sinks have; `test_sink_config` sees it in the entries."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from supervisor.api.sink_entry import SinkTls, plain_or_tls


def test_files_of_tls_are_told_and_whole() -> None:
    tls = SinkTls(ca="/a", cert="/c", key="/k")
    assert tls.files == ("/a", "/c", "/k")
    assert SinkTls().files == ("/etc/ssl/certs/ca-certificates.crt",)
    over = tls.over_http
    assert [str(path) for path in (over.ca, over.certificate, over.key)] == ["/a", "/c", "/k"]
    for wrong in ({"cert": "/c"}, {"key": "/k"}, {"ca": "a"}):
        with pytest.raises(ValidationError):
            SinkTls.model_validate(wrong)


def test_tls_is_never_left_out_in_silence() -> None:
    assert plain_or_tls(SinkTls(), None) == ""
    assert plain_or_tls(None, "it is here") == "it is here"
    with pytest.raises(ValueError, match="plain_because"):
        plain_or_tls(None, None)
