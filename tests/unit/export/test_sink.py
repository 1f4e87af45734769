"""What a sink may raise."""

from supervisor.export.sink import Refused, SinkError


def test_why_is_what_people_are_told() -> None:
    assert str(SinkError("it is down", retry_after_s=2.0)) == "it is down"
    assert SinkError("it is down").retry_after_s == 0.0
    assert str(Refused("too large")) == Refused("too large").why
