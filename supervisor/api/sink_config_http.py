"""Sinks of the configuration that other services take: those that speak HTTP, and Kafka."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from supervisor.api.config_values import MIB, Duration, Secret, Size
from supervisor.api.sink_entry import (
    JSON_FORMATS,
    STAND_IN,
    FormatName,
    SecretValues,
    SinkEntry,
    SinkTls,
    Text,
    plain_or_tls,
)
from supervisor.api.witness_config import Closed, split_host_port

if TYPE_CHECKING:
    from supervisor.export.event import Source
    from supervisor.export.sinks.http import Endpoint
    from supervisor.export.sinks.opensearch import ApiKey, BasicAuth

CHANNELS = uuid.UUID("5c4f0a60-7d5e-4f3b-9a27-6c1f9b1d2e07")
"""The namespace of channels of Splunk: one for each sink of each log, always the same."""

STAND_IN_KEY = "whsec_" + base64.b64encode(bytes(32)).decode()


class HttpEntry(SinkEntry):
    """What sinks have in common that speak to a URL."""

    url: str
    tls: SinkTls | None = None
    plain_because: Text | None = None
    stall: Duration = 15.0

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.tls is not None and self.tls.name is not None:
            raise ValueError("tls.name: the certificate has to be for the host of the url")
        return self

    @property
    def endpoint(self) -> Endpoint:
        """Give where it is."""
        from supervisor.export.sinks.http import Endpoint

        tls, plain = self.tls, self.plain_because
        if tls is None and plain is None:
            if self.url.startswith("http:"):
                raise ValueError(
                    "needs https:, or plain_because: why it is well that anybody can read it"
                )
            tls = SinkTls() if self.url.startswith("https:") else None
        return Endpoint(
            url=self.url,
            tls=None if tls is None else tls.over_http,
            plain_because=plain or "",
            stall_s=self.stall,
        )

    @property
    def tls_files(self) -> tuple[str, ...]:
        """Give the files of certificates and keys, also where they are the usual ones."""
        if self.tls is None and self.url.startswith("https:"):
            return SinkTls().files
        return super().tls_files


class SplunkEntry(HttpEntry):
    """Splunk's HTTP Event Collector. With `ack`, an event counts once indexers have it, for which
    is waited so long; `index` and `source` are the token's own where they are not given."""

    type: Literal["splunk"]
    token: Secret
    ack: Duration | None = None
    index: Text | None = None
    sourcetype: Text | None = None
    gzip: bool = False

    extra: ClassVar[str] = "export"

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """Give the token."""
        return {"token": self.token}

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give a `SplunkOptions`."""
        from supervisor.export.sinks.splunk import SplunkOptions

        return SplunkOptions(
            endpoint=self.endpoint,
            token=secret("token").encode(),
            channel=uuid.uuid5(CHANNELS, f"{source.origin} {name}"),
            host=source.host,
            source=source.origin,
            sourcetype=self.sourcetype or f"stockade:{self.format}",
            index=self.index or "",
            text=self.format not in JSON_FORMATS,
            ack_s=self.ack,
            packed=self.gzip,
        )


class _OverOtlp(HttpEntry):
    """What the signals of OTLP have in common: over gRPC or HTTP; `headers` say who we are."""

    protocol: Literal["grpc", "http"]
    headers: Annotated[dict[str, Secret], Field(max_length=16)] = {}  # noqa: RUF012
    gzip: bool = False

    extra: ClassVar[str] = "export"

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """Give the headers' values."""
        return {f"headers.{name}": value for name, value in self.headers.items()}

    def common(self, secret: SecretValues, source: Source) -> dict[str, Any]:
        """Give what both are made of."""
        return {
            "endpoint": self.endpoint,
            "grpc": self.protocol == "grpc",
            "source": source,
            "headers": {key: secret(f"headers.{key}").encode() for key in self.headers},
            "packed": self.gzip,
        }


class OtlpEntry(_OverOtlp):
    """OTLP logs."""

    type: Literal["otlp"]

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give an `OtlpOptions`."""
        from supervisor.export.sinks.otlp import OtlpOptions

        return OtlpOptions(**self.common(secret, source))


class TracesEntry(_OverOtlp):
    """Traces by OTLP: a span for each call that has ended, and for each phase of it. `sample` is
    the share of traces that are sent where the caller named none; where it did, it has decided."""

    type: Literal["traces"]
    sample: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    format: FormatName = "spans"

    is_record: ClassVar[bool] = False
    takes: ClassVar[frozenset[str]] = frozenset({"spans"})

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give a `TracesOptions`."""
        from supervisor.export.sinks.traces import TracesOptions

        return TracesOptions(**self.common(secret, source), sample=self.sample)


class OpenSearchEntry(HttpEntry):
    """The bulk API of OpenSearch and Elasticsearch: who we are by `user` and `password`, or by
    `api_key`. `index` is a data stream, or with `data_stream: false` an index."""

    type: Literal["opensearch"]
    index: Text
    data_stream: bool = True
    user: Text | None = None
    password: Secret | None = None
    api_key: Secret | None = None
    gzip: bool = False

    takes: ClassVar[frozenset[str]] = JSON_FORMATS
    extra: ClassVar[str] = "export"

    @model_validator(mode="after")
    def _one_proof(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user: and password: belong together")
        if self.user is not None and self.api_key is not None:
            raise ValueError("it is either user: and password:, or api_key:")
        return self

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """Give the password or the key."""
        given = {"password": self.password, "api_key": self.api_key}
        return {key: value for key, value in given.items() if value is not None}

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give an `OpenSearchOptions`."""
        from supervisor.export.sinks.opensearch import ApiKey, BasicAuth, OpenSearchOptions

        auth: BasicAuth | ApiKey | None = None
        if self.user is not None and self.password is not None:
            auth = BasicAuth(user=self.user, password=secret("password").encode())
        elif self.api_key is not None:
            auth = ApiKey(key=secret("api_key").encode())
        return OpenSearchOptions(
            endpoint=self.endpoint,
            auth=auth,
            target=self.index,
            stamp=self.data_stream and self.format != "ecs",
            packed=self.gzip,
        )


class WebhookEntry(HttpEntry):
    """A POST with a signature (Standard Webhooks): by one secret, or two while one replaces the
    other. A body is an array of events, or with `single` one event."""

    type: Literal["webhook"]
    secret: Annotated[list[Secret], Field(min_length=1, max_length=2)]
    single: bool = False
    body_size: Annotated[Size, Field(le=64 * MIB)] = MIB

    extra: ClassVar[str] = "export"

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        if isinstance(value, dict) and not isinstance(value.get("secret", []), list):
            return {**value, "secret": [value["secret"]]}
        return value

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """Give the secrets."""
        return {f"secret[{place}]": one for place, one in enumerate(self.secret)}

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give a `WebhookOptions`."""
        from supervisor.export.sinks.webhook import WebhookOptions

        is_json = self.format in JSON_FORMATS
        if not is_json and not self.single:
            raise ValueError(f"an array is of JSON, which {self.format} is not: single: true")
        return WebhookOptions(
            endpoint=self.endpoint,
            secrets=tuple(_webhook_key(secret(key)) for key in self.secrets),
            single=self.single,
            content_type="application/json" if is_json else "text/plain; charset=utf-8",
            body_bytes_max=self.body_size,
        )


def _webhook_key(text: str) -> bytes:
    if text == STAND_IN:
        text = STAND_IN_KEY
    try:
        if not text.startswith("whsec_"):
            raise ValueError
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a secret of a webhook is whsec_ and 24 to 64 bytes in base64") from None


class KafkaSasl(Closed):
    """Who we are to the brokers."""

    mechanism: str
    user: Text
    password: Secret


class KafkaEntry(SinkEntry):
    """A topic of Kafka; it has to exist. `message_size` is what it takes."""

    type: Literal["kafka"]
    brokers: Annotated[list[str], Field(min_length=1, max_length=64)]
    topic: Text
    tls: SinkTls | None = None
    plain_because: Text | None = None
    sasl: KafkaSasl | None = None
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "zstd"
    message_size: Annotated[Size, Field(le=64 * MIB)] = 1_000_000

    extra: ClassVar[str] = "kafka"

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """Give the password."""
        return {"sasl.password": self.sasl.password} if self.sasl is not None else {}

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give a `KafkaOptions`."""
        from supervisor.export.sinks.kafka import KafkaOptions, Sasl

        for broker in self.brokers:
            split_host_port(broker)
        if self.tls is not None and self.tls.name is not None:
            raise ValueError("tls.name: each certificate has to be for its broker's own name")
        sasl = None
        if self.sasl is not None:
            sasl = Sasl(
                mechanism=self.sasl.mechanism,
                user=self.sasl.user,
                password=secret("sasl.password").encode(),
            )
        return KafkaOptions(
            brokers=tuple(self.brokers),
            topic=self.topic,
            key=source.origin,
            tls=None if self.tls is None else self.tls.over_http,
            plain_because=plain_or_tls(self.tls, self.plain_because),
            sasl=sasl,
            compression=self.compression,
            message_bytes_max=self.message_size,
        )


class LakeLayout(Closed):
    """Where Security Lake wants it: Parquet, a source for each class of events."""

    source: Text
    account: Text


class S3Entry(HttpEntry):
    """Objects in a bucket: JSON lines below `prefix`, or as `security_lake` wants them."""

    type: Literal["s3"]
    region: Text
    bucket: Text
    key_id: Text
    secret: Secret
    session_token: Secret | None = None
    prefix: Annotated[str, Field(max_length=512)] = ""
    security_lake: LakeLayout | None = None

    takes: ClassVar[frozenset[str]] = JSON_FORMATS
    extra: ClassVar[str] = "s3"

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """Give the key's secret, and the token of a session."""
        given = {"secret": self.secret, "session_token": self.session_token}
        return {key: value for key, value in given.items() if value is not None}

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give an `S3Options`."""
        from supervisor.export.sinks.s3 import Lines, S3Options, SecurityLake

        layout: Lines | SecurityLake = Lines(prefix=self.prefix)
        if self.security_lake is not None:
            if self.prefix or not self.format.startswith("ocsf"):
                raise ValueError("security_lake: has no prefix:, and is of a format of OCSF")
            layout = SecurityLake(
                source=self.security_lake.source,
                region=self.region,
                account=self.security_lake.account,
            )
        return S3Options(
            endpoint=self.endpoint,
            region=self.region,
            bucket=self.bucket,
            key_id=self.key_id,
            secret=secret("secret").encode(),
            token=secret("session_token").encode() if self.session_token is not None else b"",
            layout=layout,
        )
