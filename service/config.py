"""Settings, read once from the environment variables ``PELLUCID_*``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, FilePath, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .http.access import Gate, Keys, rate_of

_ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s*]+")


class Settings(BaseSettings):
    """The operator's settings. The environment variable of a field is ``PELLUCID_`` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="PELLUCID_", frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 listens on all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one, which the log names.")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="Port of KServe's protocol v2 over gRPC (extra grpc); 0 takes a free one."
    )
    model: str = Field(
        "lite0",
        description="Default network, for requests without `model`: the file of a compiled network (.pellucid), or a "
        "name, which is compiled at the first start.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further networks to serve, separated by commas; a request selects one with `model`."
    )
    atlases: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Files of atlases, made by `pellucid atlas`, separated by commas; each is for one network."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto (CUDA if available, else the CPU), cpu, cuda or cuda:N.",
    )
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="Runtime of the network: auto takes OpenVINO on a CPU if it is installed and has all "
        "operations of the network, else torch.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto takes bfloat16 if the processor supports it natively and the network takes 8-bit pixels, "
        "else single precision.",
    )
    cache_dir: str = Field(
        "~/.cache/pellucid",
        description="Folder that caches compiled networks; if empty, OpenVINO's compiled subgraphs are not cached.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of the network; 0 takes all cores that the process may use.")
    decode_threads: int = Field(
        0,
        ge=0,
        description="Threads that decode and render pictures; 0 takes all cores that the process may use, at least 2.",
    )
    max_batch: int = Field(
        0, ge=0, le=1024, description="Most images in one forward pass; 0 takes the fastest number for the engine."
    )
    hang_limit_s: float = Field(
        60,
        gt=0,
        le=3600,
        description="Seconds after which an unfinished forward pass counts as hanging, and /livez fails.",
    )
    max_in_flight: int = Field(
        256, ge=1, description="Most images in flight, accepted and not yet answered; above it, 429."
    )
    timeout_ms: int = Field(
        10_000,
        ge=1,
        le=600_000,
        description="Default deadline of a request in milliseconds, and the longest that `timeout_ms` may set; "
        "after it, 504.",
    )
    max_in_flight_mib: int = Field(
        512, ge=1, description="Most MiB in flight, of request bodies and of pictures kept for overlays; above it, 429."
    )
    max_body_mib: int = Field(32, ge=1, description="Largest request body in MiB; above it, 413.")
    max_images: int = Field(32, ge=1, description="Most images in one request; above it, 413.")
    max_megapixels: int = Field(
        64, ge=1, description="Largest picture in millions of pixels, as its header says; above it, 413."
    )
    max_side_pixels: int = Field(32_768, ge=1, description="Longest side of a picture in pixels; above it, 413.")
    max_json_values: int = Field(10_000, ge=1, description="Most values in a JSON body; above it, 413.")
    max_json_depth: int = Field(16, ge=2, description="Deepest nesting of a JSON body; above it, 413.")
    max_head_kib: int = Field(32, ge=1, le=1024, description="Largest request line and headers in KiB; above it, 431.")
    max_headers: int = Field(100, ge=10, description="Most headers of a request; above it, 431.")
    head_timeout_s: int = Field(
        10, ge=1, description="Seconds within which the request line and headers must arrive; after it, 408."
    )
    max_connections: int = Field(768, ge=1, description="Most open connections; above it, 503.")
    drain_delay_s: float = Field(
        1,
        ge=0,
        le=600,
        description="Seconds after SIGTERM in which the port stays open, /readyz fails and new requests get 503.",
    )
    grace_s: int = Field(20, ge=1, description="Further seconds in which accepted requests may finish.")
    api_keys: SecretStr | None = Field(
        None, description="API keys, or their hashes as `sha256:HASH`, separated by commas. If set, clients need a key."
    )
    api_keys_file: Path | None = Field(None, description="File with further keys, or their hashes, one per line.")
    rate_limit: str | None = Field(
        None, description="Most requests per key, or per address without keys, such as 60/minute; above it, 429."
    )
    docs: Literal["open", "key", "off"] = Field(
        "open", description="Who may read /docs, /redoc and /openapi.json: open (all), key (with a key), off (nobody)."
    )
    metrics: Literal["open", "key", "off"] = Field(
        "key", description="Who may read /metrics: open (all), key (with a key; all if there are none), off (nobody)."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API, separated by commas; * allows all."
    )
    font: FilePath | None = Field(
        None, description="Font file for letters in pictures that Source Sans Pro lacks, such as Chinese ones."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")

    log_format: Literal["text", "json"] = Field(
        "text", description="Format of the log: lines of text, or one JSON object per line."
    )
    tracing: bool = Field(
        False, description="Export OpenTelemetry traces (extra otel), configured by OTEL_* variables."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower_case(cls, given: Any) -> Any:
        return given.lower() if isinstance(given, str) else given

    @field_validator("models", "atlases", "cors_origins", mode="before")
    @classmethod
    def _split_at_commas(cls, given: Any) -> Any:
        return [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given

    @field_validator("cors_origins")
    @classmethod
    def _valid_origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(origin.lower() for origin in given)
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin. Use a scheme, a host and, if needed, a port, as in "
                    "https://app.example, without a path or a slash at the end; or * for all"
                )
        return origins

    @field_validator("rate_limit")
    @classmethod
    def _valid_rate(cls, given: str | None) -> str | None:
        rate_of(given)
        return given

    @field_validator("api_keys")
    @classmethod
    def _valid_keys(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None:
            Keys.of(given.get_secret_value(), None)
        return given

    @field_validator("api_keys_file")
    @classmethod
    def _file_with_keys(cls, given: Path | None) -> Path | None:
        if given is not None and not Keys.of("", given):
            raise ValueError(f"{given} has no key, so everybody would have access")
        return given

    def gate(self) -> Gate:
        """The API keys and the rate. Raises ValueError for keys that can't be read."""
        keys = Keys.of(self.api_keys.get_secret_value() if self.api_keys else "", self.api_keys_file)
        return Gate(keys, rate_of(self.rate_limit))
