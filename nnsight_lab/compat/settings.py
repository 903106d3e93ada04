"""`nnsight.CONFIG`: where `remote=True` goes, and with which key.

The host is a lab's server, never a public service: by default `NNSIGHT_LAB_SERVER`, as for
`nl.connect()`. Nothing is written to disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from nnsight_lab.models.lab import LabModel, connect
from nnsight_lab.settings import Settings

__all__ = [
    "CONFIG",
    "ApiConfig",
    "AppConfig",
    "Config",
    "is_model_running",
    "login",
    "ndif_status",
    "settings_now",
    "status",
]


def _key_from_environment() -> str | None:
    return os.environ.get("NDIF_API_KEY") or Settings.from_environment().token


@dataclass
class ApiConfig:
    """Where the lab's server is, and the key it knows you by."""

    HOST: str = field(default_factory=lambda: Settings.from_environment().server)
    APIKEY: str | None = field(default_factory=_key_from_environment)
    COMPRESS: bool = True


@dataclass
class AppConfig:
    """How blocks behave.

    PYMOUNT: plain values have `.save()` inside a block. The others have no effect here.
    """

    DEBUG: bool = False
    REMOTE_LOGGING: bool = True
    PYMOUNT: bool = True
    CROSS_INVOKER: bool = True
    TRACE_CACHING: bool = False


@dataclass
class Config:
    """Settings of this process, to be changed by assignment."""

    API: ApiConfig = field(default_factory=ApiConfig)
    APP: AppConfig = field(default_factory=AppConfig)

    def set_default_api_key(self, key: str) -> None:
        """The key for runs on the server, in this process."""
        self.API.APIKEY = key

    def set_default_app_debug(self, debug: bool = True) -> None:
        """Accepted; errors are at your own line in any case."""
        self.APP.DEBUG = debug

    def save(self) -> None:
        """Accepted; nothing is written. `NNSIGHT_LAB_TOKEN` is kept where environments are."""


CONFIG = Config()
"""The settings of this process."""


def settings_now() -> Settings:
    """The package's own settings, with what CONFIG says laid over them."""
    return replace(Settings.from_environment(), server=CONFIG.API.HOST, token=CONFIG.API.APIKEY)


def login(key: str) -> None:
    """The key for runs on the server, as `CONFIG.set_default_api_key`."""
    CONFIG.set_default_api_key(key)


def status() -> list[LabModel]:
    """The models that the lab's server has now, one a line."""
    with connect(settings=settings_now()) as lab:
        return lab.models()


def ndif_status() -> list[LabModel]:
    """The older name of `status`."""
    return status()


def is_model_running(name: str) -> bool:
    """Whether the lab's server has a model of that name now."""
    return any(model.name == name for model in status())
