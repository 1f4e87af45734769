"""Ids of events."""

from supervisor.export.event import Entry, uid_of


def entry(index: int = 7, leaf: str = "ab" * 32) -> Entry:
    return Entry(index, leaf, 1, "denied", "call", 3, {})


def test_an_id_says_which_entry_of_which_log() -> None:
    uids = [
        uid_of(entry(), 0),
        uid_of(entry(), 1),
        uid_of(entry(index=8), 0),
        uid_of(entry(leaf="cd" * 32), 0),
    ]
    assert len(set(uids)) == len(uids)
    assert uid_of(entry(), 0) == uids[0] == "7-abababababababab-0"
