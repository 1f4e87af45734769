"""The server as a whole: doors, TLS, drain, and what is left when it could not start."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from supervisor import __version__
from supervisor.api.config import Configuration
from supervisor.api.metrics import Metrics
from supervisor.api.server import SERVICES, Server, serve
from supervisor.errors import HostError, ProfileError, StockadeError
from supervisor.v1 import tool_pb2
from tests.unit.api.certificates import Authority, Pair
from tests.unit.api.fake_sinks import FakeSinks
from tests.unit.api.fakes import FakeEngine
from tests.unit.api.harness import Client, connected, execute_request, refused, run, running

ME = os.getuid()


def test_a_call_from_end_to_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            events = await client.execute(b"echo", b"hello")
            assert [event.WhichOneof("event") for event in events] == [
                "accepted", "started", "output", "finished",
            ]  # fmt: skip
            assert events[2].output.data == b"hello\n"

    run(main())


def test_two_addresses_serve_one_engine(tmp_path: Path) -> None:
    async def main() -> None:
        addresses = [f"unix://{tmp_path}/{name}.sock" for name in "ab"]
        async with running(tmp_path, {"listen": addresses}) as run_:
            assert run_.server.addresses == tuple(addresses)
            for address in addresses:
                async with grpc.aio.insecure_channel(
                    address.replace("unix://", "unix:")
                ) as channel:
                    await Client(channel).execute(b"echo")
            assert len(run_.engine.calls) == 2

    run(main())


def test_reflection_names_the_services(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in stub.ServerReflectionInfo(iter([request])):
                names = {service.name for service in answer.list_services_response.service}
                assert {*SERVICES, "grpc.health.v1.Health"} <= names

    run(main())


# The doors


def test_the_socket_has_its_mode_and_goes_away(tmp_path: Path) -> None:
    async def main() -> None:
        config = {"socket": {"mode": "0600", "group": "root"}} if ME == 0 else {}
        async with running(tmp_path, config):
            assert stat.S_IMODE((tmp_path / "s.sock").stat().st_mode) == 0o600
            private = tmp_path / ".s.sock.d"
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert list(tmp_path.iterdir()) == []

    run(main())


@pytest.mark.parametrize("name", ["", "\0stockade-1-1", "\0stockade-" + "0" * 32 + "-1"])
def test_the_way_around_the_door_leads_nowhere(name: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as run_:
            inner = str(tmp_path / ".s.sock.d" / "0")
            outer = tmp_path / "around"
            copies: list[asyncio.Task[None]] = []

            async def around(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                twin = socket.socket(socket.AF_UNIX)
                if name:
                    twin.bind(name)
                twin.connect(inner)
                back, forth = await asyncio.open_unix_connection(sock=twin)
                copies.extend(
                    asyncio.create_task(copy(*ends)) for ends in ((reader, forth), (back, writer))
                )

            door = await asyncio.start_unix_server(around, outer)
            async with grpc.aio.insecure_channel(f"unix:{outer}") as channel:
                found = await refused(Client(channel).tool.Execute(execute_request(b"echo")))
            assert (found.code, found.reason) == (
                grpc.StatusCode.UNAUTHENTICATED,
                "PEER_UNKNOWN",
            )
            assert not run_.engine.calls
            door.close()
            await asyncio.gather(*copies)

    run(main())


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


def test_connections_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, {"limits": {"connections": 1}}) as (run_, client):
            await client.execute(b"echo")
            async with run_.channel() as second:
                code = None
                try:
                    await Client(second).tool.GetCall(tool_pb2.GetCallRequest(call_id="x"))
                except grpc.aio.AioRpcError as error:
                    code = error.code()
                assert code is grpc.StatusCode.UNAVAILABLE
            await client.execute(b"echo")

    run(main())


def test_garbage_on_the_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (run_, client):
            for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(10_000), b"PRI * HTTP/2.0\r\n"):
                reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s.sock"))
                writer.write(garbage)
                writer.write_eof()
                async with asyncio.timeout(20):
                    await reader.read()
                writer.close()
            assert not run_.engine.calls
            await client.execute(b"echo")

    run(main())


# TLS


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def tls_config(folder: Path, authority: Authority) -> dict[str, Any]:
    cert, key = authority.issue("server", "127.0.0.1", "localhost").write(folder, "server")
    (folder / "ca.pem").write_bytes(authority.cert)
    tls = {"cert": cert, "key": key, "client_ca": str(folder / "ca.pem")}
    return {
        "listen": [{"tcp": "127.0.0.1:0", "tls": tls}],
        "state": str(folder),
        "callers": [
            {"name": "remote", "san": "agent.example.com", "profiles": ["python"]},
            {"name": "legacy", "cn": "agent-7", "profiles": ["python"]},
        ],
    }


def tls_channel(address: str, authority: bytes, pair: Pair | None) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        root_certificates=authority,
        private_key=pair.key if pair else None,
        certificate_chain=pair.cert if pair else None,
    )
    return grpc.aio.secure_channel(address, credentials)


def test_tls_names_the_caller(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, tls_config(tmp_path, authority)) as run_:
            (address,) = run_.server.addresses
            for pair, name, shown in (
                (authority.issue("x", "agent.example.com"), "remote", "agent.example.com"),
                (authority.issue("agent-7"), "legacy", "agent-7"),
            ):
                async with tls_channel(address, authority.cert, pair) as channel:
                    events = await Client(channel).execute(b"echo")
                call = run_.engine.calls[events[0].call_id]
                assert (call.caller.name, call.caller.transport) == (name, "tls")
                assert (call.caller.certificate_name, call.caller.uid) == (shown, None)

    run(main())


@pytest.mark.parametrize("names", [("x", "other.example.com"), ("other",), ("agent.example.com",)])
def test_tls_with_a_name_that_is_not_known(
    names: tuple[str, ...], tmp_path: Path, authority: Authority
) -> None:
    async def main() -> None:
        async with running(tmp_path, tls_config(tmp_path, authority)) as run_:
            (address,) = run_.server.addresses
            async with tls_channel(address, authority.cert, authority.issue(*names)) as channel:
                found = await refused(Client(channel).tool.Execute(execute_request(b"echo")))
            assert (found.code, found.reason) == (
                grpc.StatusCode.UNAUTHENTICATED,
                "PEER_UNKNOWN",
            )
            assert found.infos[0].metadata["certificate"] == names[-1]

    run(main())


@pytest.mark.parametrize("which", ["none", "foreign", "plain"])
def test_tls_without_a_certificate_of_ours(
    which: str, tmp_path: Path, authority: Authority
) -> None:
    async def main() -> None:
        async with running(tmp_path, tls_config(tmp_path, authority)) as run_:
            (address,) = run_.server.addresses
            if which == "plain":
                channel = grpc.aio.insecure_channel(address)
            else:
                foreign = Authority().issue("x", "agent.example.com")
                pair = foreign if which == "foreign" else None
                channel = tls_channel(address, authority.cert, pair)
            async with channel:
                code = None
                try:
                    await Client(channel).execute(b"echo")
                except grpc.aio.AioRpcError as error:
                    code = error.code()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert not run_.engine.calls

    run(main())


@pytest.mark.parametrize("broken", ["cert", "key", "client_ca"])
@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
def test_tls_files_that_cannot_be_used(
    broken: str, content: bytes | None, tmp_path: Path, authority: Authority
) -> None:
    config = tls_config(tmp_path, authority)
    path = Path(config["listen"][0]["tls"][broken])
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert start_error(tmp_path, config).reason == "TLS_UNUSABLE"


def test_a_certificate_with_another_s_key(tmp_path: Path, authority: Authority) -> None:
    config = tls_config(tmp_path, authority)
    Path(config["listen"][0]["tls"]["key"]).write_bytes(authority.issue("localhost").key)
    assert start_error(tmp_path, config).reason == "TLS_UNUSABLE"


# Start and stop


def start_error(folder: Path, config: dict[str, Any]) -> StockadeError:
    """Give what a start raises; fail where it leaves a socket behind."""
    before = set(folder.rglob("*"))
    caught: list[StockadeError] = []

    async def main() -> None:
        try:
            async with running(folder, config):
                raise AssertionError("it started")
        except StockadeError as error:
            caught.append(error)

    run(main())
    assert set(folder.rglob("*")) == before
    return caught[0]


def test_a_grant_of_a_profile_that_is_not_there(tmp_path: Path) -> None:
    config = {"callers": [{"name": "me", "uid": ME, "profiles": ["pyhton"]}]}
    error = start_error(tmp_path, config)
    assert (type(error), error.reason) == (ProfileError, "CONFIG_PROFILE_UNKNOWN")


def test_a_grant_by_name_of_a_profile_that_is_wrong(tmp_path: Path) -> None:
    config = {"callers": [{"name": "me", "uid": ME, "profiles": ["broken"]}]}
    error = start_error(tmp_path, config)
    assert (type(error), error.reason) == (ProfileError, "CONFIG_PROFILE_INVALID")


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    error = start_error(tmp_path, {"socket": {"group": "no-such-group-here"}})
    assert (type(error), error.reason) == (ProfileError, "SOCKET_GROUP_MISSING")


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = start_error(tmp_path, {"metrics": {"listen": f"127.0.0.1:{port}"}})
    assert (type(error), error.reason) == (HostError, "ADDRESS_UNUSABLE")


def test_a_second_daemon_does_not_take_the_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            with pytest.raises(HostError) as caught:
                async with running(tmp_path):
                    raise AssertionError("it started")
            assert caught.value.reason == "ADDRESS_IN_USE"
            await client.execute(b"echo")

    run(main())


def test_metrics_are_off_unless_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as run_:
            assert run_.server.metrics_port is None
        async with running(tmp_path, {"metrics": {"listen": "127.0.0.1:0"}}) as run_:
            assert run_.server.metrics_port

    run(main())


@pytest.mark.parametrize(
    ("limits", "option", "value"),
    [
        ({"message_size": "2MiB"}, "grpc.max_receive_message_length", 4 << 20),
        ({"keepalive": "7s"}, "grpc.keepalive_time_ms", 7000),
        ({"calls": 1000}, "grpc.max_concurrent_streams", 2000),
    ],
)
def test_options(limits: dict[str, str], option: str, value: int) -> None:
    config = Configuration.model_validate({"limits": limits})
    server = Server(FakeEngine(), config, Metrics([]), sinks=FakeSinks(config))  # type: ignore[arg-type]
    assert dict(server.options())[option] == value


def test_drain_ends_calls_and_lets_clients_hear_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        config = {"limits": {"drain_grace": "3s"}}
        async with connected(tmp_path, config) as (run_, client):
            _, stream = await client.begin(b"hang")
            late: list[Any] = []
            drain: Callable[[float], Any] = run_.engine.drain

            async def drain_slowly(grace_s: float) -> None:
                run_.engine.drained_with = grace_s
                late.append(await refused(client.tool.Execute(execute_request(b"echo"))))
                await drain(grace_s)

            run_.engine.drain = drain_slowly  # type: ignore[method-assign]
            await run_.server.stop()
            assert run_.engine.drained_with == 3.0
            assert (await stream.read()).event.finished.stopped.reason == "SHUTDOWN"
            assert (late[0].code, late[0].reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "SHUTTING_DOWN",
            )
            assert late[0].retry_after_s is not None

    run(main())


def test_serve_until_it_is_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        engine = FakeEngine()
        config = Configuration.model_validate({"listen": [f"unix://{tmp_path}/s.sock"]})
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(tmp_path / "notify"))
            systemd.setblocking(False)
            task = asyncio.create_task(
                serve(
                    engine,
                    config,
                    sinks=FakeSinks(config),
                    stop=stop,
                    notify_socket=str(tmp_path / "notify"),
                )  # type: ignore[arg-type]
            )
            async with asyncio.timeout(20):
                assert await loop.sock_recv(systemd, 100) == b"READY=1"
                async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s.sock") as channel:
                    await Client(channel).execute(b"echo")
                stop.set()
                await task
                assert await loop.sock_recv(systemd, 100) == b"STOPPING=1"
        assert engine.drained_with == config.limits.drain_grace
        assert not (tmp_path / "s.sock").exists()

    run(main())


def test_doors_close_where_the_drain_fails(tmp_path: Path) -> None:
    async def main() -> None:
        engine = FakeEngine()
        config = Configuration.model_validate({"listen": [f"unix://{tmp_path}/s.sock"]})
        server = Server(engine, config, Metrics([]), sinks=FakeSinks(config))  # type: ignore[arg-type]
        await server.start()

        async def fail(_: float) -> None:
            raise HostError("STOP_INCOMPLETE", "no")

        engine.drain = fail  # type: ignore[method-assign]
        with pytest.raises(HostError):
            await server.stop()
        assert not (tmp_path / "s.sock").exists()

    run(main())


# The log


def test_the_start_line_and_who_cannot_come_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stockade")
    stranger = 3_999_999_998

    async def main() -> None:
        settings = {
            "listen": [f"unix://{tmp_path}/s.sock"],
            "state": "/srv/state",
            "callers": [{"name": "far", "uid": stranger, "profiles": ["python"]}],
        }
        config = Configuration.model_validate(settings)
        one = Server(
            FakeEngine(), config, Metrics([]), sinks=FakeSinks(config), source="/etc/x.yaml"
        )  # type: ignore[arg-type]
        await one.start()
        await one.stop()

    run(main())
    (line,) = [line for line in caplog.messages if line.startswith("stockade ")]
    for part in (__version__, "/srv/state", "/etc/x.yaml", "3 profiles", f"unix://{tmp_path}/s."):
        assert part in line
    (warning,) = [line for line in caplog.messages if "cannot reach" in line]
    assert f"caller 'far' (uid {stranger})" in warning


def test_a_stop_that_was_asked_for_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stockade")

    async def main() -> None:
        engine = FakeEngine()
        async with connected(tmp_path, engine=engine) as (running_, _):
            drain = engine.drain

            async def drain_slowly(grace_s: float) -> None:
                engine.health_problems = ("SHUTTING_DOWN",)
                async with asyncio.timeout(20):
                    while "health: NOT_SERVING: SHUTTING_DOWN" not in caplog.messages:
                        await asyncio.sleep(0.05)
                await drain(grace_s)

            engine.drain = drain_slowly  # type: ignore[method-assign]
            await running_.server.stop()

    run(main())
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_a_broken_batch_is_no_traceback_and_all_else_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a client goes while it is answered, it falls out of a task of gRPC's own."""
    caplog.set_level(logging.INFO)

    async def fail(error: Exception) -> None:
        raise error

    async def main() -> None:
        loop = asyncio.get_running_loop()
        config = Configuration.model_validate({"listen": [f"unix://{tmp_path}/s.sock"]})
        stop = asyncio.Event()
        task = asyncio.create_task(serve(FakeEngine(), config, sinks=FakeSinks(config), stop=stop))  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            while not (tmp_path / "s.sock").exists():
                await asyncio.sleep(0.01)
        batch = cygrpc.ExecuteBatchError("Failed grpc_call_start_batch: 10")
        for error in (batch, cygrpc.InternalError("internal"), RuntimeError("a bug")):
            lost = loop.create_task(fail(error))
            await asyncio.wait([lost])
            del lost
        stop.set()
        await task

    run(main())
    traces = [str(r.exc_info[1]) for r in caplog.records if r.exc_info]
    assert traces == ["internal", "a bug"]
    assert any("connection broke" in line for line in caplog.messages)
