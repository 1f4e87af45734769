"""`stockade serve`: put the rooms together, and serve until somebody says stop.

Order matters: the host, configuration and profiles are checked before anything is touched; the
record is opened before the engine, which cleans up what a former daemon left behind; only then
does anybody listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.call.events import Timeline
from supervisor.cli import logs, provided
from supervisor.cli.folders import profile_folders, runtime_option
from supervisor.cli.in_clear import warn_of_secrets
from supervisor.cli.process import StopSignals, settle
from supervisor.cli.session import json_option
from supervisor.errors import (
    AuditUnavailable,
    HostError,
    InvalidRequest,
    StockadeError,
)

if TYPE_CHECKING:
    from supervisor.api.config import Configuration
    from supervisor.api.metrics import Metrics
    from supervisor.api.sinks import Sinks
    from supervisor.audit.store import Store
    from supervisor.engine import Engine
    from supervisor.linux.mounts import BpfFolder
    from supervisor.profile.load import ProfileSet

EXHAUSTED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
NO_THREAD = "can't start new thread"
"""What CPython says where pthread_create(3) failed."""

LEVELS = ("debug", "info", "warning", "error")

log = logging.getLogger("stockade")


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """The rooms, put together."""

    config: Configuration
    metrics: Metrics
    store: Store
    engine: Engine
    sinks: Sinks


@dataclass(frozen=True, slots=True)
class Reading:
    """The configuration's file, None where there is none, and what reads it again."""

    source: Path | None
    again: Callable[[], Configuration]


@click.command("serve", short_help="Run the daemon.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the record and of images.  [default: /var/lib/stockade]",
)
@click.option(
    "--listen",
    "addresses",
    multiple=True,
    metavar="ADDRESS",
    help="Listen here instead of where the configuration says; may be given again. "
    "unix:///path only: TCP needs the certificates of the configuration.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration.  [default: /etc/stockade/config.yaml, where it exists]",
)
@click.option(
    "--profiles",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Load profiles from this folder and no other; may be given again.",
)
@runtime_option("--runtime", help="Folder for what lives as long as a call: bundles, sockets.")
@click.option("--log-json", is_flag=True, help="Write the log as JSON, one object a line.")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="The least serious messages to write.",
)
@json_option
def command(
    state: Path | None,
    addresses: tuple[str, ...],
    config_path: Path | None,
    folders: tuple[Path, ...],
    runtime_folder: Path,
    log_json: bool,
    log_level: str,
) -> None:
    """Run the daemon in the foreground, with its log on standard error.

    SIGTERM, SIGINT and SIGHUP stop it: no new calls, live ones may end within the configured
    grace, the rest is killed, every outcome is on record. Configuration and profiles are read at
    the start; `export reload` reads the sinks again, and nothing else. What is given here wins over
    the configuration. What a former daemon left behind is cleaned up first, its open calls closed
    as interrupted.

    It does not start where a profile that a caller is granted by name is missing or wrong; wrong
    ones that are granted through "*" are warned of, and their calls refused. Nor where somebody
    else could write the configuration, a profile or a certificate.

    \b
    Examples:
      stockade serve
      stockade serve --config /etc/stockade/config.yaml --log-json
      stockade serve --state ./state --listen unix://$PWD/stockade.sock --runtime-dir ./run

    \b
    Exit codes:
      0  stopped on request
      2  the configuration, or a profile that it grants by name, is wrong or not guarded
      5  not root, this host cannot raise a wall, an address or the log's key cannot be used, or
         something of the daemon could not be removed when it stopped
      7  the record cannot be written, or another daemon has it
      8  the record is damaged
    """
    is_read = logs.set_up(log_level, as_json=log_json)
    # Lines of gRPC's C core are in a form of their own; what matters comes back as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        _run(config_path, state, addresses, folders, runtime_folder)
    except StockadeError as error:
        if not is_read:
            raise
        log.critical("%s", logs.in_one_line(error))
        click.get_current_context().exit(error.exit_code)


def _run(
    config_path: Path | None,
    state: Path | None,
    addresses: tuple[str, ...],
    folders: tuple[Path, ...],
    runtime_folder: Path,
) -> None:
    signals = StopSignals()
    with signals.installed():
        _prepare_and_serve(signals, config_path, state, addresses, folders, runtime_folder)


def _prepare_and_serve(
    signals: StopSignals,
    config_path: Path | None,
    state: Path | None,
    addresses: tuple[str, ...],
    folders: tuple[Path, ...],
    runtime_folder: Path,
) -> None:
    from supervisor.api.guarded import require_guarded
    from supervisor.linux.host import check_host

    check_host()
    source = configuration_file(config_path)
    again = functools.partial(
        configuration, source, state=state, addresses=addresses, folders=folders
    )
    config, reading = again(), Reading(source, again)
    # systemd's address is read here: no other room looks at the environment.
    notify_socket = os.environ.pop("NOTIFY_SOCKET", "")
    require_guarded(config, source=source, profiles=profile_folders(config.profiles))
    transports = len({listener.tls is None for listener in config.listen})
    settle(calls=config.limits.calls, connections=config.limits.connections * transports)
    with exhaustion_named():
        bpf = _open_bpf(config, runtime_folder)
        _enter_private_mounts()
        asyncio.run(_serve(config, runtime_folder, bpf, notify_socket, reading, signals))


def configuration_file(path: Path | None) -> Path | None:
    """Give the configuration's file: the one that was asked for, or the usual one if it exists."""
    from supervisor.api import config as configs

    if path is None and configs.DEFAULT_PATH.exists():
        return configs.DEFAULT_PATH
    return path.absolute() if path is not None else None


def configuration(
    path: Path | None,
    *,
    state: Path | None = None,
    addresses: tuple[str, ...] = (),
    folders: tuple[Path, ...] = (),
) -> Configuration:
    """Read the configuration and put what the command line says over it.

    Raises:
        ProfileError: the configuration is missing or wrong.
        InvalidRequest: `ADDRESS_INVALID`.
    """
    from supervisor.api import config as configs

    loaded = configs.load(path)
    changes: dict[str, Any] = {}
    if state is not None:
        changes["state"] = str(state.absolute())
    if addresses:
        changes["listen"] = [_listener(address) for address in addresses]
    if folders:
        changes["profiles"] = [str(folder.absolute()) for folder in folders]
    return loaded.model_copy(update=changes)


def build_daemon(
    config: Configuration,
    runtime_folder: Path,
    bpf: BpfFolder | None = None,
    identities: tuple[str, ...] = (),
    *,
    reading: Reading | None = None,
) -> Daemon:
    """Load the profiles, open the record, and make the engine; nothing runs yet. `identities` are
    those that the daemon reads the content of calls with, `reading` is where the configuration is
    from.

    Raises:
        ProfileError: a profile folder is missing, or a caller is granted a profile by name that
            is missing or wrong.
        AuditUnavailable: `STATE_LOCKED`, `STATE_UNUSABLE`, or the record cannot be written.
        AuditCorrupt: the record is damaged.
        HostError: the log's key cannot be used, or is another log's; what the configuration names
            to look for secrets by cannot be used.
    """
    from supervisor.api.callers import check_grants
    from supervisor.api.metrics import Metrics
    from supervisor.api.sinks import Sinks
    from supervisor.engine import Engine, EngineOptions
    from supervisor.profile.load import ProfileSet

    profiles = ProfileSet.load(profile_folders(config.profiles))
    check_grants(config.callers, profiles)
    _warn_of_problems(profiles)
    _warn_of_missing_secrets(profiles, config)
    warn_of_secrets(profiles)
    state = Path(config.state)
    metrics = Metrics(profiles.names, state)
    reading = reading or Reading(None, lambda: config)
    sinks = Sinks(
        config, read=reading.again, source=reading.source, credentials=provided.credentials()
    )
    store = _open_store(config, metrics, sinks, identities)
    metrics.tell_limits(config.limits.calls, profiles)
    metrics.watch_record(store)
    metrics.watch_sinks(sinks.health)
    engine = Engine(
        store=store,
        profiles=profiles,
        state=state,
        runtime=runtime_folder,
        bpf=bpf,
        observer=metrics,
        options=EngineOptions(calls_max=config.limits.calls, keep_alive_s=config.limits.keepalive),
        egress=provided.egress_options(config),
    )
    return Daemon(config=config, metrics=metrics, store=store, engine=engine, sinks=sinks)


def _open_store(
    config: Configuration, metrics: Metrics, sinks: Sinks, identities: tuple[str, ...]
) -> Store:
    from supervisor.audit.store import Store
    from supervisor.audit.vault import Encryption
    from supervisor.audit.witness_word import WitnessWord
    from supervisor.cli.witnesses import witness_of

    state = Path(config.state)
    try:
        return Store.open(
            state,
            signer=provided.signer_of(config),
            clock_ns=time.time_ns,
            observer=metrics,
            on_fatal=_stop,
            witnesses=[witness_of(entry) for entry in config.witnesses],
            witness_observer=WitnessWord(state, metrics),
            retain=provided.retain_of(config, metrics, lambda: sinks.names),
            encryption=Encryption(recipients=provided.recipients_of(config), identities=identities),
            masks=provided.masks_of(config),
            watermark=provided.watermark_of(config),
        )
    except OSError as error:
        raise AuditUnavailable(
            "STATE_UNUSABLE",
            f"the state folder {state} cannot be used: {error.strerror}",
            hint="--state names a folder that this user may write, on a disk that works",
        ) from error


def _warn_of_problems(profiles: ProfileSet) -> None:
    of_profiles = {
        problem: f"profile {name}" for name in profiles.names for problem in profiles.problems(name)
    }
    of_files = {problem: "profiles" for problem in profiles.stray if problem not in of_profiles}
    for problem, what in {**of_profiles, **of_files}.items():
        place = f"{problem.file}:{problem.line}:{problem.column}"
        log.warning("%s: %s: %s", what, place, problem.message)


def missing_secrets(name: str, profiles: ProfileSet, config: Configuration) -> list[str]:
    """Name the secrets of a profile that the configuration has no source of; none where it is
    wrong, which is told by itself."""
    if profiles.problems(name):
        return []
    return [use.name for use in profiles.effective(name).secrets if use.name not in config.secrets]


def _warn_of_missing_secrets(profiles: ProfileSet, config: Configuration) -> None:
    for name in profiles.names:
        for secret in missing_secrets(name, profiles, config):
            log.warning(
                "profile %s names the secret %s, which the configuration does not have; its "
                "calls are refused",
                name, secret,
            )  # fmt: skip


def _warn_of_missing_walls(engine: Engine) -> None:
    from supervisor.profile.schema import RUNTIME
    from supervisor.profile.walls import missing

    host = engine.walls()
    for name in engine.profiles.names:
        if engine.profiles.problems(name):
            continue
        profile = engine.profiles.effective(name)
        runtime = () if profile.runtime == RUNTIME else (profile.runtime,)
        for wall, state in missing((*profile.require, *runtime), host).items():
            log.warning(
                "profile %s requires %s, which is not on this host: %s; its calls are refused",
                name, wall, state.why,
            )  # fmt: skip


@contextlib.contextmanager
def exhaustion_named() -> Iterator[None]:
    """Name the host's limits where one of them ends the daemon.

    Raises:
        HostError: `HOST_EXHAUSTED`: no thread, process, descriptor or memory is to be had.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in EXHAUSTED:
            raise
        raise _exhausted(str(error)) from error
    except MemoryError as error:
        raise _exhausted("out of memory") from error
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        raise _exhausted(str(error)) from error


def _exhausted(what: str) -> HostError:
    return HostError(
        "HOST_EXHAUSTED",
        f"this host gives the daemon no more: {what}",
        hint="look at TasksMax= and LimitNOFILE= of its unit, ulimit -u and -n, pids.max, free -m",
    )


def _open_bpf(config: Configuration, runtime_folder: Path) -> BpfFolder:
    """Mount where the probes are pinned in the host's mount namespace, while we are in it."""
    from supervisor.sandbox import SandboxOptions

    options = SandboxOptions(state=Path(config.state), runtime=runtime_folder)
    options.check_owner()
    return options.mount_pins()


def _enter_private_mounts() -> None:
    """Take a mount namespace of our own, while there is one thread: see `linux.mounts`."""
    from supervisor.linux.mounts import enter_private_mounts

    enter_private_mounts()


def _stop(failure: StockadeError) -> None:
    """End the daemon in order: a record that failed once is never written again."""
    log.critical("the record can no longer be written, stopping: %s", logs.in_one_line(failure))
    os.kill(os.getpid(), signal.SIGTERM)


async def _serve(
    config: Configuration,
    runtime_folder: Path,
    bpf: BpfFolder,
    notify_socket: str,
    reading: Reading,
    signals: StopSignals,
) -> None:
    if signals.asked is not None:
        bpf.close_if_empty()
        log.info("%s: stopped before the start", signals.asked.name)
        return
    with signals.heard() as stop, contextlib.ExitStack() as stack:
        stack.callback(bpf.close_if_empty)
        identities = await provided.identities_of(config)
        daemon = build_daemon(config, runtime_folder, bpf, identities, reading=reading)
        try:
            if signals.asked is None:
                await _start_and_serve(daemon, signals, stop, notify_socket, reading.source)
        finally:
            await daemon.sinks.close()
            await daemon.store.close()
    if daemon.store.failure is not None:
        raise daemon.store.failure
    log.info("stopped")


async def _start_and_serve(
    daemon: Daemon,
    signals: StopSignals,
    stop: asyncio.Event,
    notify_socket: str,
    source: Path | None,
) -> None:
    from supervisor.api import policy
    from supervisor.api.server import serve

    open_calls = [call.call_id for call in daemon.store.interrupted]
    await daemon.engine.start()
    try:
        _warn_of_missing_walls(daemon.engine)
        _tell_of_interrupted(daemon, open_calls)
        if signals.asked is None:
            in_force = policy.policy_of(daemon.config, source, daemon.engine.profiles)
            await policy.note(daemon.store, in_force)
            await daemon.sinks.start(daemon.store.outlet, daemon.store.outlet.origin)
            await serve(
                daemon.engine,
                daemon.config,
                daemon.metrics,
                sinks=daemon.sinks,
                stop=stop,
                notify_socket=notify_socket,
                source=str(source or ""),
            )
            return
    except BaseException:
        # What the engine put on the host goes, also where nobody could listen.
        await daemon.engine.drain(0.0)
        raise
    await daemon.engine.drain(0.0)


def _tell_of_interrupted(daemon: Daemon, call_ids: list[str]) -> None:
    if not call_ids:
        return
    log.warning("the last daemon died; calls closed as interrupted: %d", len(call_ids))
    for call_id in call_ids:
        profile = daemon.store.get_call(call_id).profile
        daemon.metrics.call_closed(profile, "interrupted", Timeline())


def _listener(address: str) -> Any:
    from pydantic import ValidationError

    from supervisor.api.config import Listener

    try:
        return Listener.model_validate(address)
    except ValidationError as error:
        raise InvalidRequest(
            "ADDRESS_INVALID",
            f"cannot listen on {address!r}: "
            f"{error.errors()[0]['msg'].removeprefix('Value error, ')}",
            hint="--listen takes unix:///path; TCP goes into the configuration, with its tls:",
            metadata={"address": address},
        ) from error
