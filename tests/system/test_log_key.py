"""The key that signs the log, where it is not the one in the state folder."""

from __future__ import annotations

import json
from pathlib import Path

from supervisor.audit.keys import new_key, public_key
from supervisor.audit.notes import VerifierKey
from supervisor.audit.verify import verify
from supervisor.call.outcome import Exited
from tests.support.daemon import Daemon, running_daemon

ORIGIN = "log.example.com/host-1"


def called(daemon: Daemon) -> bytes:
    """Run a call, and give its receipt."""
    done = daemon.client.run(["true"], profile="base")
    assert done.outcome == Exited(code=0)
    return daemon.client.receipt(done.call_id)


def refusal(daemon: Daemon, code: int) -> str:
    """Start a daemon that must not start, and give what it said."""
    before = daemon.log.stat().st_size if daemon.log.exists() else 0
    daemon.start(wait=False)
    assert daemon.wait() == code, daemon.tail()
    return daemon.log.read_text()[before:]


def rotated(daemon: Daemon, *options: str) -> VerifierKey:
    """Hand the log of a daemon that is stopped over to another key, by the command line."""
    command = ("audit", "key", "rotate", "--config", str(daemon.config), *options)
    done = daemon.command(*command, str(daemon.state))
    assert done.returncode == 0, done
    return VerifierKey.parse(done.stdout.decode())


def verified(daemon: Daemon, key: VerifierKey, *heads: Path) -> str:
    options = [option for head in heads for option in ("--head", str(head))]
    done = daemon.command("audit", "verify", "--key", str(key), *options, str(daemon.state))
    assert done.returncode == 0, done
    return done.stdout.decode()


def test_a_log_is_handed_over_to_other_keys_and_who_knew_the_first_follows(tmp_path: Path) -> None:
    later = new_key(tmp_path / "later", ORIGIN)
    new_key(tmp_path / "state", ORIGIN)
    kept: list[Path] = []
    keys: list[VerifierKey] = []

    def keep(daemon: Daemon, key: VerifierKey) -> None:
        """Run a call, and keep what shows it."""
        keys.append(key)
        for name, content in (
            ("receipt", called(daemon)), ("head", daemon.client.checkpoint().checkpoint),
        ):  # fmt: skip
            kept.append(tmp_path / f"{name}-{len(keys)}")
            kept[-1].write_bytes(content)

    with running_daemon(folder=tmp_path) as daemon:
        keep(daemon, public_key(daemon.state))
        running = daemon.command("audit", "key", "rotate", str(daemon.state))
        assert running.returncode == 7, running
        assert daemon.stop() == 0
        old = (daemon.state / "log.key").read_bytes()
        second = rotated(daemon)
        new = (daemon.state / "log.key").read_bytes()

        (daemon.state / "log.key").write_bytes(old)
        (daemon.state / "log.pub").write_text(f"{keys[0]}\n")
        said = refusal(daemon, 5)
        assert "KEY_OTHER" in said
        assert second.key_id.hex() in said
        assert "stockade audit key rotate" in said
        (daemon.state / "log.key").write_bytes(new)
        (daemon.state / "log.pub").write_text(f"{second}\n")

        daemon.start()
        keep(daemon, second)
        assert daemon.stop() == 0
        configured = tmp_path / "next.yaml"
        key = {"file": str(tmp_path / "later" / "log.key")}
        config = {"record": {"origin": ORIGIN, "key": key}}
        configured.write_text(json.dumps(config))
        assert rotated(daemon, "--to", str(configured)) == later
        assert not (daemon.state / "log.key").exists()
        assert "KEY_INVALID" in refusal(daemon, 5)
        daemon.configure(config)
        daemon.start()
        keep(daemon, later)
        assert daemon.stop() == 0

        for number, known in enumerate(keys):
            said = verified(daemon, known, *kept[2 * number :])
            assert f"signed by {later.key_id.hex()}" in said
            assert f"{len(kept) - 2 * number} heads that you kept as well" in said
            receipt = str(kept[2 * number])
            assert not daemon.command("audit", "check", "--key", str(known), receipt).returncode
        verified(daemon, public_key(daemon.state))


def test_a_key_in_a_file_of_its_own(tmp_path: Path) -> None:
    mine, other = (new_key(tmp_path / name, ORIGIN) for name in ("mine", "other"))
    config = {"record": {"origin": ORIGIN, "key": {"file": str(tmp_path / "mine" / "log.key")}}}
    with running_daemon(config=config, folder=tmp_path) as daemon:
        receipt = tmp_path / "call.tlog-proof"
        receipt.write_bytes(called(daemon))
        assert not (daemon.state / "log.key").exists()
        for key, code in ((mine, 0), (other, 8)):
            done = daemon.command("audit", "check", "--key", str(key), str(receipt))
            assert done.returncode == code, done
        assert daemon.stop() == 0
        assert verify(daemon.state, key=mine).problems == ()
        assert not verify(daemon.state, key=other).ok

        config["record"]["key"] = {"file": str(tmp_path / "other" / "log.key")}
        daemon.configure(config)
        said = refusal(daemon, 5)
        assert "KEY_OTHER" in said
        assert mine.key_id.hex() in said
        (tmp_path / "other" / "log.key").chmod(0o640)
        assert "KEY_EXPOSED" in refusal(daemon, 5)
        daemon.configure({})
        assert "KEY_INVALID" in refusal(daemon, 5)
        assert verify(daemon.state, key=mine).problems == ()
