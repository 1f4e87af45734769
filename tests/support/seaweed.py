"""SeaweedFS, a real S3 server, on loopback: started, stalled, killed and started again.

It runs in the foreground, as a child of the test, with all its data in a folder of the test's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

START_S = 60.0
POLL_S = 0.05
PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
         "filer.port.grpc", "s3.port", "s3.port.grpc")  # fmt: skip
REGION = "eu-north-1"


class Seaweed:
    """The server. A context manager: it is gone in the end."""

    def __init__(self, folder: Path, key_id: str, secret: str, bucket: str) -> None:
        self._folder = folder / "weed"
        self._folder.mkdir()
        self._bucket = bucket
        self._ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "weed.json"
        self._log = folder / "weed.log"
        identity = {
            "name": "test", "actions": ["Admin", "Read", "Write", "List"],
            "credentials": [{"accessKey": key_id, "secretKey": secret}],
        }  # fmt: skip
        self._config.write_text(json.dumps({"identities": [identity]}))
        self.client: Any = boto3.client(
            "s3", endpoint_url=self.url, region_name=REGION, aws_access_key_id=key_id,
            aws_secret_access_key=secret, config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Give its address."""
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    def __enter__(self) -> Self:
        self.start()
        self.client.create_bucket(Bucket=self._bucket)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = Path(sys.executable).parent / "weed"
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program, "server", "-s3", f"-s3.config={self._config}", f"-dir={self._folder}",
                    "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=20",
                    "-master.volumeSizeLimitMB=64", "-master.telemetry=false", *ports,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self._folder)},
            )  # fmt: skip
        until = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text(errors="replace")
            assert time.monotonic() < until, self._log.read_text(errors="replace")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End it with SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        for port in self._ports.values():  # It makes them there, whatever it is told.
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Have it do nothing, with its connections open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def objects(self) -> dict[str, bytes]:
        """Give all that is in the bucket, by key, in their order."""
        found = {}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        for page in pages:
            for one in page.get("Contents", []):
                answer = self.client.get_object(Bucket=self._bucket, Key=one["Key"])
                found[one["Key"]] = answer["Body"].read()
        return found

    def _answers(self) -> bool:
        """Say whether it stores: its parts find each other some time after they listen."""
        try:
            self.client.create_bucket(Bucket="probe")
            self.client.put_object(Bucket="probe", Key="probe", Body=b"x")
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou"}:
                return False
            return self._stores()
        except BotoCoreError:
            return False
        return True

    def _stores(self) -> bool:
        try:
            self.client.put_object(Bucket="probe", Key="probe", Body=b"x")
        except (ClientError, BotoCoreError):
            return False
        return True


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
