"""The server's settings: flags, then environment (`MATTEBOX_*`), then a TOML file, then defaults.

The only module that reads the environment. An unknown name is refused in a flag or a file, and warned of in the
environment.
"""

import argparse
import difflib
import math
import os
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mattebox_export.catalogue import find_entry, require_accepted
from mattebox_server.engine.config import ABILITIES, EngineConfig, ProviderName, RequestedPrecision
from mattebox_server.engine.observer import EngineObserver
from mattebox_server.errors import StartupError
from mattebox_server.memory import available_bytes
from mattebox_server.named import Making, is_name
from mattebox_server.request import BYTES_A_PIXEL
from mattebox_server.security.proxies import TrustedProxies
from mattebox_server.security.secret_files import TlsFiles

_PREFIX = "MATTEBOX_"
_CLIENT_PREFIX = "MATTEBOX_CLIENT_"
# Pillow refuses to open a header beyond this by itself, so that a higher limit could not be kept.
_MAX_PIXELS_CEILING = 178_956_970
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_MIB = 1024 * 1024
_MAX_PORT = 65535
_OFF = Path("off")
_MEMORY_SHARE = 0.75  # of the machine's memory; the rest is for the models, the libraries and the system
_ARRIVING_SHARE = 0.25  # of the requests' memory, for those that are not complete
_MAX_RECEIVING = 64
_NEAR = 0.85  # how alike two names must be for one to be a misspelling of the other


class Memory(NamedTuple):
    """The number of requests that may arrive at once, and the bytes of memory of those that have arrived."""

    receiving: int
    work_bytes: int


def _default_cache() -> Path | None:
    """The folder `mattebox` in the user's cache; None for a user without a home."""
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return user / "mattebox"


def _is_host_and_port(value: str) -> bool:
    host, _, port = value.rpartition(":")
    other = host in ("unix-abstract", "vsock", "external")  # gRPC takes these for other kinds of sockets
    bare_v6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    return bool(host) and not other and not bare_v6 and port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT


class Settings(BaseSettings):
    """Removes the background of photos, over gRPC."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
        cli_prog_name="mattebox-server",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_parse_none_str="none",
    )

    config: Path | None = Field(default=None, description="TOML file with any of these settings")
    model: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="name of a network, which is made if it isn't there, or model file made by mattebox-export (a path"
        " has a dot or a slash); repeat it (environment: separate by commas) for several, the first is the default",
    )
    list_models: CliImplicitFlag[bool] = Field(
        default=False, description="list the networks that have a name, and do nothing else"
    )
    offline: CliImplicitFlag[bool] = Field(default=False, description="download nothing")
    accept_licence: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="name of a network whose licence you accept although it forbids commercial use; repeat it"
        " (environment: separate by commas) for several",
    )
    address: str = Field(
        default="127.0.0.1:50051", description="HOST:PORT to listen on, where port 0 takes a free port; or unix:PATH"
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file with the server's certificate and its chain; turns TLS on"
    )
    tls_key: Path | None = Field(default=None, description="PEM file with its key, without a passphrase")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file with the authorities whose certificates callers must have (mutual TLS)"
    )
    token_file: Path | None = Field(
        default=None, description="file with lines NAME:TOKEN; callers must send one of the tokens"
    )
    allow_insecure: CliImplicitFlag[bool] = Field(
        default=False, description="listen without TLS even where other machines can connect"
    )
    trusted_proxies: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="IP address or network of a proxy, or `unix` for a unix socket, whose header x-mattebox-caller"
        " names the caller where no tokens are asked for; repeat it (environment: separate by commas) for several",
    )
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = Field(
        default="auto", description="execution provider; auto takes the first of cuda, openvino and cpu that works"
    )
    precision: RequestedPrecision = Field(
        default="auto",
        description="numeric precision; auto takes the fastest that the device has and the model allows; any other one"
        " stops the server where it is not available",
    )
    gpu_memory_bytes: int | None = Field(
        default=None,
        ge=_MIB,
        description="largest part of a GPU's memory that each session may take; by default there is no limit",
    )
    cache_dir: Path | None = Field(
        default=None,
        description="folder for downloads, models that are asked for by name, and what openvino and tensorrt compile;"
        " off keeps nothing; by default mattebox in the user's cache",
    )
    sessions: int = Field(
        default=1, ge=1, le=64, description="number of runs of networks at once; each has a copy of every model"
    )
    max_batch: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="largest number of photos of one size in a run; by default 1 on a CPU and 8 on a GPU",
    )
    reload_models_seconds: float | None = Field(
        default=None,
        ge=0.1,
        le=86400,
        description="seconds between two looks at the model files, of which changed ones are reloaded; off by default"
        " (SIGHUP reloads all of them at any time)",
    )
    threads: int = Field(
        default=_CORES,
        ge=1,
        le=1024,
        description="number of threads for networks on a CPU, and as many for pixels; by default one for each core",
    )
    max_photo_bytes: int = Field(
        default=32 * _MIB, ge=1, le=1023 * _MIB, description="size of the largest image file, or of raw data"
    )
    max_photo_pixels: int = Field(
        default=64_000_000,
        ge=1,
        le=_MAX_PIXELS_CEILING,
        description="largest width x height of an image, read from its header before it is decoded",
    )
    memory_bytes: int | None = Field(
        default=None,
        ge=1,
        description="memory that all requests together may take, beside the models; by default three quarters of the"
        " memory of the machine or the container",
    )
    max_queue: int = Field(
        default=64,
        ge=0,
        description="number of requests that may wait for one model; more are refused as RESOURCE_EXHAUSTED",
    )
    max_wait_seconds: float = Field(
        default=30.0,
        gt=0,
        description="longest predicted wait for one model; a request that would wait longer is refused",
    )
    drain_seconds: float = Field(
        default=0.5,
        ge=0,
        description="seconds after SIGTERM in which new requests are still taken, while health checks say NOT_SERVING",
    )
    grace_seconds: float = Field(
        default=30.0, ge=0, description="seconds that running requests have to finish after that"
    )
    metrics_address: str | None = Field(
        default=None,
        description="HOST:PORT to serve Prometheus metrics on, where port 0 takes a free port; off by default",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="http://HOST:PORT or https://HOST:PORT of an OpenTelemetry collector (OTLP over gRPC) that gets"
        " traces; needs the extra `otel`; off by default",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="console is for people, json for machines"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least important kind of event that is logged"
    )

    @property
    def max_message_bytes(self) -> int:
        """The size of the largest request: photo and background picture at their limit, and the other fields."""
        return 2 * self.max_photo_bytes + 64 * 1024

    @property
    def least_memory_bytes(self) -> int:
        """The memory without which the largest photo could not be answered."""
        arriving, work = self.max_message_bytes, self.max_message_bytes + BYTES_A_PIXEL * self.max_photo_pixels
        return math.ceil(max(arriving / _ARRIVING_SHARE, work / (1 - _ARRIVING_SHARE)))

    @property
    def memory(self) -> Memory:
        """How the memory is divided between requests that arrive and those that have arrived."""
        total = self.memory_bytes or max(int(_MEMORY_SHARE * available_bytes()), self.least_memory_bytes)
        arriving = math.ceil(_ARRIVING_SHARE * total)
        return Memory(min(_MAX_RECEIVING, arriving // self.max_message_bytes), total - arriving)

    def active_on(self, providers: Iterable[ProviderName]) -> int:
        """The requests for one model that are worked on at once, with its sessions on these providers.

        While a run's photos are in the network, the last one's are finished and the next one's prepared: three times
        what runs at once.
        """
        runs = self.sessions * max(self.engine.max_batch_on(provider) for provider in providers)
        return max(3 * runs, runs + self.threads)

    @field_validator("model", "accept_licence", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Splits what flags and environment give as one string with commas; a file gives a list."""
        return [part for part in value.split(",") if part] if isinstance(value, str) else value

    @field_validator("model", "accept_licence")
    @classmethod
    def _are_known(cls, value: list[str], info: ValidationInfo) -> list[str]:
        """Refuses names that no network has."""
        for name in value:
            if info.field_name == "accept_licence" or is_name(name):
                find_entry(name)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_proxies(cls, value: list[str]) -> list[str]:
        TrustedProxies(value)
        return value

    @field_validator("address", "metrics_address")
    @classmethod
    def _names_host_and_port(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Refuses addresses for which gRPC would take port 443, or the number modulo 65536, without a warning."""
        if value is None or (info.field_name == "address" and value.startswith("unix:") and value != "unix:"):
            return value
        if not _is_host_and_port(value):
            raise ValueError(f"must be HOST:PORT with a port of 0 to {_MAX_PORT}, or [IPV6]:PORT (address: unix:PATH)")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_endpoint(cls, value: str | None) -> str | None:
        """Refuses endpoints that the exporter would take for a name, or whose path it would leave out in silence."""
        if value is not None:
            scheme, _, place = value.partition("://")
            if scheme not in ("http", "https") or not _is_host_and_port(place) or place.endswith(":0"):
                raise ValueError("must be http://HOST:PORT or https://HOST:PORT, without a path")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if not self.model and not self.list_models:
            raise ValueError("model is missing: the name of a network (--list-models shows all) or a model file")
        for name in filter(is_name, self.model):
            require_accepted(find_entry(name), self.accept_licence)
        if self.gpu_memory_bytes is not None and self.provider != "auto" and not ABILITIES[self.provider].on_gpu:
            raise ValueError(f"gpu_memory_bytes would have no effect with the provider {self.provider}")
        if self.trusted_proxies and self.token_file is not None:
            raise ValueError("trusted_proxies would have no effect with token_file, whose names are the callers")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key need each other")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca would have no effect without tls_certificate and tls_key")
        if self.memory_bytes is not None and self.memory_bytes < self.least_memory_bytes:
            raise ValueError(
                f"memory_bytes is below {self.least_memory_bytes}, which the largest photo may take: allow more, or"
                " lower max_photo_pixels or max_photo_bytes"
            )
        return self

    @property
    def tls_files(self) -> TlsFiles | None:
        """The files of TLS; None without TLS."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)

    @property
    def cache(self) -> Path | None:
        """The cache folder; None without one."""
        return None if self.cache_dir == _OFF else self.cache_dir or _default_cache()

    @property
    def making(self) -> Making:
        """How models that are asked for by name are made."""
        return Making(self.cache, self.provider, self.precision, self.offline, self.accept_licence, EngineObserver())

    @property
    def engine(self) -> EngineConfig:
        """The engine's part of the settings."""
        return EngineConfig(
            provider=self.provider,
            precision=self.precision,
            threads=self.threads,
            gpu_memory_bytes=self.gpu_memory_bytes,
            cache_dir=None if self.cache is None else self.cache / "compiled",
            sessions=self.sessions,
            max_batch=self.max_batch,
        )

    @classmethod
    def settings_customise_sources(  # the signature is pydantic's
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Orders the sources: flags, which pydantic-settings puts first by itself, environment, file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(argv: Sequence[str]) -> Settings:
    """Reads the settings from all sources.

    Raises:
        StartupError: a setting is unknown, missing or out of range, or the file can't be read.
        SystemExit: an unknown flag (2) or --help (0).
    """
    path = _config_path(argv)

    class WithFile(Settings):
        __doc__ = Settings.__doc__
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return WithFile(_cli_parse_args=list(argv))  # type: ignore[call-arg]  # pydantic-settings' own parameter
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()]
        raise StartupError("wrong settings\n  " + "\n  ".join(problems)) from error


def _config_path(argv: Sequence[str]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get(f"{_PREFIX}CONFIG"))
    name = parser.parse_known_args(list(argv))[0].config
    if not name:
        return None
    path = Path(name)
    try:  # pydantic-settings would pass over a missing file in silence
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartupError(f"can't read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"{path} is not valid TOML: {error}") from error
    if "config" in found:
        raise StartupError(f"{path} names another file by config: there can be only one")
    return path


def unknown_variables() -> dict[str, str]:
    """The variables `MATTEBOX_*` of the environment that are no setting, with the setting that is nearest or "".

    They are warned of and not refused, because a Kubernetes service called mattebox makes such variables in every pod.
    Those of the client on the same machine are none of the server's.
    """
    known = [_PREFIX + name.upper() for name in Settings.model_fields]
    own = [name for name in os.environ if name.upper().startswith(_PREFIX)]
    unknown = [name for name in own if not name.upper().startswith(_CLIENT_PREFIX) and name.upper() not in known]
    return {name: next(iter(difflib.get_close_matches(name.upper(), known, 1, _NEAR)), "") for name in unknown}
