"""What is being served right now: an immutable picture, replaced whole when registry or configuration change."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import anyio.to_thread
import structlog

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.endpoints import Endpoint, EndpointProvider
from rs_gateway.domain.errors import ConfigurationError, RegistryError, RouteSwitchError
from rs_gateway.domain.pools import Catalog, build_catalog
from rs_gateway.domain.ports import ChatProvider, PromptRegistry, RegistryState
from rs_gateway.domain.pricing import PriceBook
from rs_gateway.domain.rates import TokenBucket
from rs_gateway.domain.router import Router
from rs_gateway.domain.traces import StoreMode
from rs_gateway.domain.wording import counted
from rs_gateway.endpoint_wiring import build_endpoints
from rs_gateway.settings import Settings
from rs_gateway.wiring import (
    build_providers,
    combinations_of,
    open_prices,
    passthrough_of,
    rate_limits_of,
    router_rules_of,
)

log = structlog.get_logger()
_SETTLED_S = 0.05


@dataclass(frozen=True, slots=True)
class Served:
    """One consistent picture; a request keeps the one that it began with."""

    catalog: Catalog
    providers: Mapping[str, ChatProvider]
    prices: PriceBook
    combinations: Mapping[str, Combination]
    timeout_s: float
    max_retries: int
    first_byte_timeout_s: float = 60.0
    client_stall_s: float = 30.0
    rate_limits: Mapping[str, TokenBucket] = field(default_factory=dict[str, TokenBucket])
    """Provider -> its own limit, shared by everything that calls it."""
    endpoints: Mapping[tuple[str, Endpoint], EndpointProvider] = field(
        default_factory=dict[tuple[str, Endpoint], EndpointProvider]
    )
    """(Provider, endpoint) -> who answers there."""
    store: StoreMode = StoreMode.FULL
    """How much is kept of a request where nobody asks for less."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """When what is served was last looked at and what stands in the way of something newer."""

    loaded_at: str
    registry_fingerprint: str
    registry_problems: Mapping[str, str]
    registry_error: str | None = None
    configuration_error: str | None = None
    restart_needed: tuple[str, ...] = ()
    """Keys that were changed in the file and that only a new process takes over."""


class Source(Protocol):
    """Where the current picture comes from."""

    @property
    def served(self) -> Served:
        """The current picture; never waits."""
        ...


class Serving:
    """Keeps the picture current. Reading it costs one attribute; looking for news happens in a thread.

    Args:
        settings: what the process started with; `read_settings` gives them anew when the file changed.
    """

    def __init__(
        self, settings: Settings, registry: PromptRegistry, router: Router, *, read_settings: Callable[[], Settings]
    ) -> None:
        self._settings = settings
        self._started_with = settings.fixed_at_start
        self._registry, self._router = registry, router
        self._read_settings = read_settings
        self._config_mark = _mark(settings.config_path)
        self._retired: list[tuple[float, ChatProvider | EndpointProvider]] = []
        self._providers: dict[str, ChatProvider] = build_providers(settings)
        self._endpoints = build_endpoints(settings, self._providers)
        self._rate_limits = rate_limits_of(settings)
        self._prices = open_prices(settings)
        self._state = registry.load()
        self.served = self._picture()
        self.freshness = Freshness(_now(), self._state.fingerprint, self._state.problems)
        self._refreshing = asyncio.Lock()
        self._log_problems({})

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def state(self) -> RegistryState:
        """What the registry held when it was last read."""
        return self._state

    async def keep_fresh(self) -> None:
        """Look for news every `gateway.refresh_seconds`, for ever."""
        while True:
            await asyncio.sleep(self._settings.gateway.refresh_seconds)
            try:
                await self.refresh()
            except Exception as error:  # whatever the news are, what is served goes on being served
                log.exception("refresh_failed")
                self.freshness = replace(self.freshness, registry_error=f"{type(error).__name__}: {error}")

    async def refresh(self) -> None:
        """Take in what changed. Whatever is wrong with the news, the last good picture goes on serving."""
        # One at a time: what was read earlier must not replace what was read later.
        async with self._refreshing:
            await self._take_in_news()

    async def _take_in_news(self) -> None:
        await self._close_retired()
        await self._refresh_settings()
        try:
            fingerprint = await anyio.to_thread.run_sync(self._registry.fingerprint)
            if fingerprint != self._state.fingerprint:
                before = self._state
                state = await anyio.to_thread.run_sync(self._registry.load, before)
                if before.templates and not state.templates and not state.problems:
                    raise RegistryError(
                        f"The registry is empty now; it held {counted(len(before.templates), 'template')}, and what "
                        "was there goes on being served. Restore it, or restart the gateway if that is meant."
                    )
                self._state = state
                self.served = self._picture()
                self._log_problems(before.problems)
                log.info("registry_refreshed", fingerprint=self._state.fingerprint, problems=len(self._state.problems))
        except (RouteSwitchError, OSError) as error:
            if self.freshness.registry_error is None:
                log.error("registry_unreadable", error=str(error))
            self.freshness = replace(self.freshness, registry_error=str(error))
            return
        self.freshness = replace(
            self.freshness,
            loaded_at=_now(),
            registry_fingerprint=self._state.fingerprint,
            registry_problems=self._state.problems,
            registry_error=None,
        )

    async def aclose(self) -> None:
        """Close the providers' connections."""
        retired = [provider for _, provider in self._retired]
        for provider in (*self._providers.values(), *_each_once(self._endpoints), *retired):
            await provider.aclose()

    async def _close_retired(self) -> None:
        now = asyncio.get_running_loop().time()
        over = [provider for until, provider in self._retired if until <= now]
        self._retired = [(until, provider) for until, provider in self._retired if until > now]
        for provider in over:
            await provider.aclose()

    async def _refresh_settings(self) -> None:
        path = self._settings.config_path
        mark = await anyio.to_thread.run_sync(_mark, path)
        if mark == self._config_mark:
            return
        # Whoever writes it may be in the middle of that: what is taken in has stood still for a moment.
        await asyncio.sleep(_SETTLED_S)
        if await anyio.to_thread.run_sync(_mark, path) != mark:
            return
        self._config_mark = mark
        try:
            if mark is not None and mark.size == 0:
                raise ConfigurationError(
                    f"{path} is empty now; what it said before goes on. Restore it, or restart the gateway if that is "
                    "meant."
                )
            settings = await anyio.to_thread.run_sync(self._read_settings)
            providers = build_providers(settings)
            endpoints = build_endpoints(settings, providers)
            prices = await anyio.to_thread.run_sync(open_prices, settings)
        except (RouteSwitchError, ValueError) as error:
            log.error("configuration_refused", error=str(error))
            self.freshness = replace(self.freshness, configuration_error=str(error))
            return
        # Requests in flight still hold the old providers: they are closed when the last of those must have ended.
        until = asyncio.get_running_loop().time() + 2 * self._settings.api.timeout_seconds
        self._retired.extend(
            (until, provider) for provider in (*self._providers.values(), *_each_once(self._endpoints))
        )
        if _limits(settings) != _limits(self._settings):
            self._rate_limits = rate_limits_of(settings)
        self._settings, self._providers, self._endpoints, self._prices = settings, providers, endpoints, prices
        self.served = self._picture()
        changed = tuple(k for k, value in settings.fixed_at_start.items() if value != self._started_with[k])
        self.freshness = replace(self.freshness, configuration_error=None, restart_needed=changed)
        log.info("configuration_refreshed", restart_needed=changed)

    def _picture(self) -> Served:
        combinations = combinations_of(self._settings)
        passthrough = passthrough_of(self._settings)
        known = {c.combination_id: c for c in (*combinations, *passthrough.values())}
        self._router.adopt(router_rules_of(self._settings))
        self._router.keep_only(known)
        return Served(
            catalog=build_catalog(
                self._state.templates, combinations, passthrough=passthrough, problems=self._state.problems
            ),
            providers=self._providers,
            prices=self._prices,
            combinations=known,
            timeout_s=self._settings.api.timeout_seconds,
            max_retries=self._settings.api.max_retries,
            first_byte_timeout_s=self._settings.api.first_byte_timeout_seconds,
            client_stall_s=self._settings.api.client_stall_seconds,
            rate_limits=self._rate_limits,
            endpoints=self._endpoints,
            store=self._settings.privacy.store,
        )

    def _log_problems(self, before: Mapping[str, str]) -> None:
        for template_id, problem in self._state.problems.items():
            if before.get(template_id) != problem:
                log.error("template_invalid", template_id=template_id, problem=problem)


def _each_once(endpoints: Mapping[tuple[str, Endpoint], EndpointProvider]) -> list[EndpointProvider]:
    return list({id(provider): provider for provider in endpoints.values()}.values())


def _limits(settings: Settings) -> dict[str, float | None]:
    return {name: provider.rate_limit for name, provider in settings.model_providers.items()}


class _Mark(NamedTuple):
    """What tells one state of a file from another."""

    mtime_ns: int
    size: int
    inode: int


def _mark(path: Path) -> _Mark | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _Mark(status.st_mtime_ns, status.st_size, status.st_ino)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
