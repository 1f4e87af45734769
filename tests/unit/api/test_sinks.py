"""The sinks of a daemon: with their secrets and files, and as the configuration says when it is
read again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from supervisor.api import config
from supervisor.api.config import Configuration
from supervisor.api.sinks import FIRST_UID, Sinks, missing, uid_of_sink
from supervisor.audit.store import Store
from supervisor.errors import HostError, ProfileError
from supervisor.export.exporter import SinkState
from supervisor.oci.spec import ID_RANGE
from tests.unit.api.certificates import Authority

KEYS = "limits: {calls: 3}\n"


@contextlib.asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[tuple[Sinks, Store]]:
    path = folder / "config.yaml"
    path.write_text(f"state: {folder / 'state'}\n{text}")

    def read() -> Configuration:
        return config.load(path)

    sinks = Sinks(read(), read=read, source=path, credentials=None)
    store = Store.open(folder / "state")
    try:
        await sinks.start(store.outlet, store.outlet.origin)
        yield sinks, store
    finally:
        await sinks.close()
        await store.close()


def rewrite(folder: Path, text: str) -> None:
    (folder / "config.yaml").write_text(f"state: {folder / 'state'}\n{text}")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def file_sink(path: Path, more: str = "") -> str:
    return f"{{type: file, path: {path}, format: json{more}}}"


def state(sinks: Sinks, name: str) -> SinkState:
    (found,) = [one for one in sinks.exporter.states if one.name == name]
    return found


def kinds(path: Path) -> list[str]:
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [json.loads(line)["kind"] for line in lines]


def test_what_is_noted_comes_out_and_says_of_which_log_it_is(tmp_path: Path) -> None:
    out = tmp_path / "out"

    async def main() -> str:
        async with running(tmp_path, f"sinks: {{out: {file_sink(out)}}}\n") as (sinks, store):
            assert sinks.names == ("out",)
            await store.note("policy", {"a": 1})
            await sinks.exporter.wait_acknowledged("out", 0)
            return store.outlet.origin

    origin = asyncio.run(main())
    (line,) = out.read_bytes().splitlines()
    found = json.loads(line)
    assert (found["kind"], found["log"], found["body"]) == ("policy", origin, {"a": 1})
    assert found["head"]["size"] == 1


def test_a_configuration_that_is_read_again_changes_the_sinks(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    async def main() -> None:
        text = f"sinks: {{a: {file_sink(first)}, b: {{type: journald, socket: /none}}}}\n"
        async with running(tmp_path, text + KEYS) as (sinks, store):
            await store.note("policy", {})
            await sinks.exporter.wait_acknowledged("a", 0)
            rewrite(
                tmp_path,
                f"sinks: {{a: {file_sink(first)}, c: {file_sink(second)}}}\nlimits: {{calls: 4}}\n",
            )
            found = await sinks.reload()
            assert (found.added, found.removed, found.changed, found.unchanged) == (
                ("c",), ("b",), (), ("a",),
            )  # fmt: skip
            assert found.ignored == ("limits",)
            assert sinks.names == ("a", "c")
            assert sinks.config.limits.calls == 3
            await store.note("held", {})
            await sinks.exporter.wait_acknowledged("c", 1)
            await sinks.exporter.wait_acknowledged("a", 1)

    asyncio.run(main())
    assert kinds(first) == kinds(second) == ["policy", "held"]


def test_how_they_do_is_told_to_other_threads(tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = f"sinks: {{a: {file_sink(out)}, b: {{type: journald, socket: /none}}}}\n"

    async def main() -> Sinks:
        async with running(tmp_path, text) as (sinks, store):
            await store.note("policy", {})
            await sinks.exporter.wait_acknowledged("a", 0)
            await until(lambda: state(sinks, "b").said.get("failures", 0) > 0)
            a, b = await asyncio.to_thread(sinks.health)
            assert (a.name, a.kind, a.lag_entries, a.acknowledged) == ("a", "file", 0, 1)
            assert (b.name, b.lag_entries, b.acknowledged) == ("b", 1, 0)
            assert b.lag_bytes > 0
            return sinks

    sinks = asyncio.run(main())
    assert sinks.health() == ()


def test_before_the_start_nobody_asks(tmp_path: Path) -> None:
    given = Configuration.model_validate({"state": str(tmp_path)})
    sinks = Sinks(given, read=lambda: given, source=None, credentials=None)
    assert sinks.health() == ()


SPLUNK = '{type: splunk, url: "http://127.0.0.1:9", plain_because: a test, token: {file: %s}}'


def test_where_anything_is_wrong_nothing_changes(tmp_path: Path) -> None:
    out, key = tmp_path / "out", tmp_path / "key"

    async def main() -> None:
        async with running(tmp_path, f"sinks: {{a: {file_sink(out)}}}\n") as (sinks, store):
            for text, error, said in [
                ("sinks: {b: {type: stdout, linge: 1s}}\n", ProfileError, "linge"),
                ("sinks: {b: {type: stdout}}\nlimits: {call: 1}\n", ProfileError, "config.yaml:3"),
                (
                    f"sinks: {{b: {{type: stdout}}, c: {SPLUNK % key}}}\n",
                    HostError,
                    "sinks.c.token",
                ),
                (
                    'sinks: {b: {type: stdout}, c: {type: relp, address: "a:1", '
                    f"tls: {{ca: {key}}}}}}}\n",
                    ProfileError,
                    f"sinks.c.tls: {key}: No such file",
                ),
            ]:
                rewrite(tmp_path, text)
                with pytest.raises(error, match=said):
                    await sinks.reload()
                assert sinks.names == ("a",)
            (tmp_path / "config.yaml").chmod(0o666)
            with pytest.raises(ProfileError, match="all users can write it"):
                await sinks.reload()
            await store.note("policy", {})
            await sinks.exporter.wait_acknowledged("a", 0)

    asyncio.run(main())


def test_a_secret_that_changed_is_a_change(tmp_path: Path) -> None:
    token = tmp_path / "token"

    def write(text: str) -> None:
        token.write_text(text)
        token.chmod(0o600)

    write("one\n")

    async def main() -> None:
        text = f"sinks: {{a: {SPLUNK % token}, b: {{type: journald, socket: /none}}}}\n"
        async with running(tmp_path, text) as (sinks, _):
            assert (await sinks.reload()).unchanged == ("a", "b")
            write("two\n")
            assert (await sinks.reload()).changed == ("a",)
            write("of two words\n")
            with pytest.raises(ProfileError, match=r"sinks\.a: a token of Splunk is one word"):
                await sinks.reload()

    asyncio.run(main())


def test_a_secret_that_cannot_be_read_keeps_the_daemon_from_starting(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, f"sinks: {{a: {SPLUNK % (tmp_path / 'none')}}}\n"):
            pass

    with pytest.raises(HostError, match=r"the secret sinks\.a\.token: its file") as caught:
        asyncio.run(main())
    assert str(tmp_path / "none") in caught.value.hint


def test_a_sink_is_a_user_without_rights_who_has_its_files(tmp_path: Path) -> None:
    key = tmp_path / "ca.pem"
    key.write_text("no certificate")
    key.chmod(0o600)

    async def main() -> None:
        text = f'sinks: {{a: {{type: relp, address: "127.0.0.1:9", tls: {{ca: {key}}}}}}}\n'
        async with running(tmp_path, text) as (sinks, store):
            await store.note("policy", {})
            await until(lambda: bool(state(sinks, "a").said.get("why")))
            # It could read the file, and found no certificate in it.
            assert "no_certificate_or_crl_found" in str(state(sinks, "a").said["why"]).lower()
            (pid,) = [
                int(found.name)
                for found in Path("/proc").iterdir()
                if found.name.isdigit() and _is_sink(found)
            ]
            status = (Path("/proc") / str(pid) / "status").read_text()
            uid = uid_of_sink("a")
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
            assert "CapEff:\t0000000000000000\n" in status
            assert "NoNewPrivs:\t1\n" in status

    asyncio.run(main())


def _is_sink(process: Path) -> bool:
    with contextlib.suppress(OSError):
        stat = (process / "stat").read_text().rpartition(")")[2].split()
        return int(stat[1]) == os.getpid() and b"worker" in (process / "cmdline").read_bytes()
    return False


def test_users_of_sinks_are_nobody_elses() -> None:
    names = [f"sink-{number}" for number in range(1000)]
    found = [uid_of_sink(name) for name in names]
    assert all(FIRST_UID <= uid < FIRST_UID + ID_RANGE for uid in found)
    assert len(set(found)) > 980
    assert FIRST_UID + ID_RANGE <= 2147352576


def test_retention_waits_for_no_traces(tmp_path: Path) -> None:
    traces = '{type: traces, url: "http://127.0.0.1:9", plain_because: a test, protocol: http}'
    path = tmp_path / "config.yaml"

    def loaded(text: str) -> Configuration:
        path.write_text(text)
        return config.load(path)

    only = loaded(f"sinks: {{t: {traces}}}\n")
    assert only.marks is None
    both = loaded(f"sinks: {{t: {traces}, s: {{type: stdout}}}}\n")
    assert both.marks is not None
    sinks = Sinks(both, read=lambda: both, source=None, credentials=None)
    assert sinks.names == ("s",)


def test_what_tls_cannot_use_is_said(tmp_path: Path) -> None:
    authority, ca = Authority(), tmp_path / "ca.pem"
    ca.write_bytes(authority.cert)
    certificate, key = authority.issue("stockade").write(tmp_path, "stockade")
    _, other = authority.issue("other").write(tmp_path, "other")
    (tmp_path / "no.pem").write_text("nonsense\n")
    pair = f"ca: {ca}, cert: {certificate}"
    entries = (f"ca: {tmp_path}/no.pem", f"{pair}, key: {other}", f"{pair}, key: {key}")
    path = tmp_path / "config.yaml"
    path.write_text(
        "sinks:\n"
        + "".join(
            f"  s{n}: {{type: syslog, address: 'a:1', tls: {{{tls}}}}}\n"
            for n, tls in enumerate(entries)
        )
    )
    first, second = missing(config.load(path))
    assert first.startswith(f"sinks.s0.tls: {tmp_path}/no.pem cannot be used: no certificate")
    assert second.startswith(f"sinks.s1.tls: {ca}, {certificate}, {other} cannot")
    assert "mismatch" in second
