"""A profile that requires a wall is served where the wall stands, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited
from supervisor.errors import HostError
from supervisor.linux import cgroup
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles

PURE = "require: [cgroup-v2]"
GUARD = "require: [guard]"
FREED = "profile: freed\nextends: both\ndrop: {require: [cgroup-v2, guard]}\nwhy: For one test.\n"


def findings(daemon: Daemon, profile: str) -> dict[str, str]:
    """Give what the daemon says of its host, by row."""
    shown = daemon.command("profile", "explain", "--json", profile).stdout
    return {row["wall"]: row["host"] for row in json.loads(shown)}


@pytest.mark.key("require", "drop.require")
def test_a_required_wall_that_is_missing_refuses_the_call(tmp_path: Path) -> None:
    config = with_profiles(
        tmp_path, pure=PURE, guarded=GUARD, both="require: [cgroup-v2, guard]", freed=FREED
    )
    with running_daemon(config=config) as daemon:
        pure = cgroup.detect().pure
        guard = "guard stands on this host" in findings(daemon, "base")["programs"]
        assert ("cgroup-v2 stands" in findings(daemon, "base")["resources"]) == pure
        stands = {"pure": pure, "guarded": guard, "both": pure and guard}
        lacking = [name for name, whole in stands.items() if not whole]
        for name in stands.keys() - set(lacking):
            assert daemon.client.run(["true"], profile=name).outcome == Exited(code=0)
        for name in lacking:
            with pytest.raises(HostError) as caught:
                daemon.client.run(["true"], profile=name)
            assert caught.value.reason == "WALL_MISSING"
            assert caught.value.hint
            assert "refused here" in " ".join(findings(daemon, name).values())
        # The same profile without the key is served on any host: it was the key that refused.
        assert daemon.client.run(["true"], profile="freed").outcome == Exited(code=0)
        told = daemon.log.read_text()
        assert [name for name in stands if f"profile {name} requires" in told] == lacking
        calls = [call.profile for call in daemon.client.list_calls()]
        assert set(calls) == {"freed", *(stands.keys() - set(lacking))}
        assert ("WALL_MISSING" in told) == bool(lacking)
