"""Objects in S3: JSON lines under zstd, or Parquet in the layout of Amazon Security Lake.

Lines are under `prefix/eventDay=YYYYMMDD/`; Security Lake has a source of its own for each class,
`ext/SOURCE/region=REGION/accountId=ACCOUNT/eventDay=YYYYMMDD/`. Taken is what has an answer of 200
and an ETag. Many small objects are slow to read: this sink wants large batches that wait for
minutes (Security Lake asks for an object every five minutes to once a day).
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from urllib.parse import quote

import httpx

from supervisor.export.event import Event
from supervisor.export.sink import Refused, Rejected, SinkError
from supervisor.export.sinks.http import Endpoint, Poster, judge
from supervisor.export.sinks.rows import RowsError, lines_of, name_of, parquet_of, pieces

NEVER = frozenset({"EntityTooLarge", "KeyTooLongError"})
_PART = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CODE = re.compile(rb"<Code>([A-Za-z.]{1,64})</Code>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """JSON lines below a prefix, which has no slash at either end; "" is none."""

    prefix: str = ""

    def __post_init__(self) -> None:
        if self.prefix and not all(map(_PART.fullmatch, self.prefix.split("/"))):
            raise ValueError(f"{self.prefix!r} is no prefix")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityLake:
    """Where a lake wants Parquet: a source is named `source`_CLASS, CLASS being OCSF's number."""

    source: str
    region: str
    account: str

    def __post_init__(self) -> None:
        if not all(map(_PART.fullmatch, (self.source, self.region, self.account))):
            raise ValueError("source, region and account are a word each")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """`endpoint` is the service's address, with the bucket in the path, not in the name."""

    endpoint: Endpoint
    region: str
    bucket: str
    key_id: str
    secret: bytes = field(repr=False)
    token: bytes = field(default=b"", repr=False)
    layout: Lines | SecurityLake

    def __post_init__(self) -> None:
        if not _PART.fullmatch(self.bucket) or not self.region or not self.key_id:
            raise ValueError("a bucket, a region and a key have to be named")
        if httpx.URL(self.endpoint.url).path != "/":
            raise ValueError("the address of the service has no path")
        if not self.secret:
            raise ValueError("there is no secret to the key")


class S3Sink:
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._poster = Poster(options.endpoint, [options.secret, options.token])
        self._host = httpx.URL(options.endpoint.url).netloc.decode()

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Put a batch; return once each object is there.

        Raises:
            SinkError: one is not, and may be later.
            Refused: one never will be.
        """
        layout = self._options.layout
        for piece in pieces(batch):
            events = [batch[at] for at in piece.positions]
            where, ending = _place(layout, piece.class_uid, piece.day)
            make = lines_of if isinstance(layout, Lines) else parquet_of
            try:
                body = await asyncio.to_thread(make, events)
            except RowsError as error:
                raise Refused(str(error)) from None
            await self._put(where + name_of(events, ending), body)
        return ()

    def trails(self) -> int:
        """Give none: each has its answer."""
        return 0

    async def close(self) -> None:
        """Part."""
        await self._poster.close()

    async def _put(self, key: str, body: bytes) -> None:
        path = f"/{self._options.bucket}/{key}"
        headers = signed(
            self._options, host=self._host, path=path, body=body, now=datetime.datetime.now(UTC)
        )
        answer = await self._poster.post(path, body, headers, method="PUT")
        code = _CODE.search(answer.body)
        name = code[1].decode() if code else ""
        if answer.status == 413 or name in NEVER:
            raise Refused(f"it answers {answer.status}: {name}")
        try:
            judge(answer)
        except Refused as error:  # what is left is who asks, where, or when
            raise SinkError(error.why) from None
        if answer.status != 200 or not answer.headers.get("etag"):
            raise SinkError(f"it answers {answer.status}, without an ETag")


def signed(
    options: S3Options, *, host: str, path: str, body: bytes, now: datetime.datetime,
    more: Mapping[str, str] | None = None,
) -> dict[str, str]:  # fmt: skip
    """Give the headers of a PUT with AWS Signature Version 4, the body's digest among what is
    signed, as "Authenticating Requests (AWS Signature Version 4)" of S3's API has it."""
    stamp, digest = now.strftime("%Y%m%dT%H%M%SZ"), hashlib.sha256(body).hexdigest()
    headers = {"x-amz-content-sha256": digest, "x-amz-date": stamp, **(more or {})}
    if options.token:
        headers["x-amz-security-token"] = options.token.decode()
    covered = sorted({**headers, "host": host}.items())
    names = ";".join(name for name, _ in covered)
    lines = "".join(f"{name}:{value}\n" for name, value in covered)
    request = "\n".join(("PUT", quote(path, safe="/~"), "", lines, names, digest))
    scope = f"{stamp[:8]}/{options.region}/s3/aws4_request"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    key = b"AWS4" + options.secret
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    who = f"Credential={options.key_id}/{scope}"
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 {who}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _place(layout: Lines | SecurityLake, class_uid: int, day: str) -> tuple[str, str]:
    """Give where objects of a class and day are, and how their names end."""
    if isinstance(layout, Lines):
        return f"{layout.prefix}/eventDay={day}/".removeprefix("/"), f"{class_uid}.jsonl.zst"
    source = f"{layout.source}_{class_uid}"
    where = f"region={layout.region}/accountId={layout.account}/eventDay={day}"
    return f"ext/{source}/{where}/", "zstd.parquet"
