"""Settings, read once from ``PELLUCID_*`` in the environment and passed down from there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .http.keys_and_rates import Keys, rate_of

_ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s*]+")


class Settings(BaseSettings):
    """What an operator may choose. Each field is the environment variable ``PELLUCID_`` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="PELLUCID_", frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 listens on all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        "lite0",
        description="The network that answers requests which name none: the file of a compiled network (.pellucid), or "
        "a name, which is compiled at the first start.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further networks to serve, between commas; a request names one by `model`."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N.",
    )
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="What runs the network: auto takes OpenVINO on a CPU where it is installed, else torch."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto takes bfloat16 where the processor computes in it, else single precision."
    )
    cache_dir: str = Field(
        "~/.cache/pellucid",
        description="Folder that keeps what was compiled between starts; empty keeps no model of the engine's.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of the network; 0 takes the cores that the process may use.")
    decode_threads: int = Field(
        0,
        ge=0,
        description="Threads that decode and render pictures; 0 takes the cores that the process may use, at least 2.",
    )
    max_batch: int = Field(
        0,
        ge=0,
        le=1024,
        description="Largest number of images in one forward pass; 0 takes what pays: 4 on a CPU, 8 on CUDA.",
    )
    hang_limit_s: float = Field(
        60,
        gt=0,
        le=3600,
        description="Seconds after which a forward pass that has not come back counts as hanging: /livez fails then.",
    )
    max_in_flight: int = Field(256, ge=1, description="Images accepted and not yet answered; above it, 429.")
    timeout_ms: int = Field(
        10_000,
        ge=1,
        le=600_000,
        description="Deadline in milliseconds of a request that names none, and the longest it may name.",
    )
    max_in_flight_mib: int = Field(
        512,
        ge=1,
        description="MiB of bodies, and of pictures that are kept to be drawn over, held at once; above it, 429.",
    )
    max_body_mib: int = Field(32, ge=1, description="Largest request body in MiB; above it, 413.")
    max_images: int = Field(32, ge=1, description="Most images in one request; above it, 413.")
    max_megapixels: int = Field(64, ge=1, description="Largest picture in millions of pixels; above it, 413.")
    max_side_pixels: int = Field(32_768, ge=1, description="Longest side of a picture; above it, 413.")
    max_json_values: int = Field(10_000, ge=1, description="Most values in a JSON body; above it, 413.")
    max_json_depth: int = Field(16, ge=2, description="Deepest nesting of a JSON body; above it, 413.")
    max_head_kib: int = Field(
        32, ge=1, le=1024, description="Largest head of a request, its line and headers, in KiB; above it, 431."
    )
    max_headers: int = Field(100, ge=10, description="Most headers of a request; above it, 431.")
    head_timeout_s: int = Field(
        10, ge=1, description="Seconds in which the head of a request must arrive on an open connection."
    )
    max_connections: int = Field(768, ge=1, description="Connections open at once; above it, 503.")
    drain_delay_s: float = Field(
        1,
        ge=0,
        le=600,
        description="Seconds from SIGTERM in which the port stays open, /readyz fails and new work gets 503.",
    )
    grace_s: int = Field(20, ge=1, description="Seconds in which accepted requests may finish after that.")
    api_keys: SecretStr | None = Field(
        None, description="API keys, or sha256: and their hashes, between commas; with any, a caller needs one of them."
    )
    api_keys_file: Path | None = Field(None, description="File with further keys, or their hashes, one a line.")
    rate_limit: str | None = Field(
        None, description="Requests for each key, or for each address without keys, as 60/minute; above it, 429."
    )
    docs: Literal["open", "key", "off"] = Field(
        "open", description="Who may see /docs, /redoc and /openapi.json: all, callers with a key, nobody."
    )
    metrics: Literal["open", "key", "off"] = Field(
        "key", description="Who may see /metrics: all, callers with a key (all, where there are none), nobody."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call, between commas; * is all of them."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )

    log_format: Literal["text", "json"] = Field(
        "text", description="How the log is written: lines for people, or a JSON object for each."
    )
    tracing: bool = Field(False, description="Send OpenTelemetry traces (extra otel) where the OTEL_* variables say.")

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_any_case(cls, given: Any) -> Any:
        return given.lower() if isinstance(given, str) else given

    @field_validator("models", "cors_origins", mode="before")
    @classmethod
    def _between_commas(cls, given: Any) -> Any:
        return [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given

    @field_validator("cors_origins")
    @classmethod
    def _as_browsers_send_them(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(origin.lower() for origin in given)
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: https://app.example, with its port if it has one and without a path or "
                    "a slash at its end, or * for all"
                )
        return origins

    @field_validator("rate_limit")
    @classmethod
    def _a_rate(cls, given: str | None) -> str | None:
        rate_of(given)
        return given

    @field_validator("api_keys")
    @classmethod
    def _keys_that_can_not_be_guessed(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None:
            Keys.of(given.get_secret_value(), None)
        return given

    @field_validator("api_keys_file")
    @classmethod
    def _a_file_of_keys(cls, given: Path | None) -> Path | None:
        if given is not None and not Keys.of("", given):
            raise ValueError(f"{given} holds no key, so everybody would be let in")
        return given
