"""Everything that an optimisation works with, opened from the settings; and which targets there are."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec

from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import ConfigurationError, RegistryError
from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.ports import ChatProvider, PromptRegistry
from rs_gateway.domain.prompts import PromptTemplate, PromptVersion
from rs_gateway.domain.redaction import Redactor
from rs_gateway.domain.stats import StatsReader
from rs_gateway.domain.traces import Usage, UsageSource
from rs_gateway.domain.wording import did_you_mean
from rs_gateway.settings import Settings, load_settings
from rs_gateway.store_urls import is_postgres
from rs_gateway.wiring import (
    build_provider,
    combinations_of,
    needs_client_key,
    open_prices,
    open_registry,
    open_stats_reader,
    redactor_of,
)
from rs_pipelines.answers import AnswerCache
from rs_pipelines.cached_model import CachedModel, CallCost, CallLimits, ModelIdentity
from rs_pipelines.datasets import DatasetStore
from rs_pipelines.evaluators.registry import build_evaluator, resources_of
from rs_pipelines.gate import GatePolicy
from rs_pipelines.known_examples import KnownExamples
from rs_pipelines.lake import Lake
from rs_pipelines.mipro.request import StudyModels
from rs_pipelines.pacing import Pace
from rs_pipelines.sample import Target
from rs_pipelines.sample_draw import FeedbackDoor
from rs_pipelines.sample_store import SampleStore
from rs_pipelines.studies import StudyFiles

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


@dataclass(frozen=True)
class Workbench:
    """The stores under one configuration. Opening it touches no disk and no network."""

    settings: Settings

    @classmethod
    def at(cls, config: Path | None = None) -> "Workbench":
        """The workbench of a configuration file. Raises ConfigurationError."""
        return cls(load_settings(config))

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.settings.path(self.settings.data_dir)

    @cached_property
    def registry(self) -> PromptRegistry:
        """Templates and versions."""
        return open_registry(self.settings)

    @cached_property
    def lake(self) -> Lake:
        """Ingested traces and feedback."""
        return Lake(self.settings.stores.lake or self.data / "lake")

    @cached_property
    def datasets(self) -> DatasetStore:
        """Imported labelled rows."""
        return DatasetStore(self.settings.datasets_path)

    @cached_property
    def samples(self) -> SampleStore:
        """Calibration samples."""
        return SampleStore(self.data / "samples")

    @property
    def feedback_door(self) -> FeedbackDoor:
        """Where labels are sent."""
        return FeedbackDoor(self.settings.gateway.url, needs_client_key(self.settings))

    @cached_property
    def known_examples(self) -> KnownExamples:
        """What the samples were drawn from."""
        return KnownExamples(self.data / "known_examples")

    @property
    def daily_figures(self) -> Path:
        """The table of what each day brought, by template, version and model."""
        return self.data / "daily_figures.parquet"

    @property
    def live_scores(self) -> Path:
        """The table of the live versions' scores."""
        return self.data / "live_scores.parquet"

    @cached_property
    def studies(self) -> StudyFiles:
        """Studies and comparisons."""
        return StudyFiles(self.data / "studies")

    def open_answers(self) -> AnswerCache:
        """What models answered and what was paid; to be closed. Raises ConfigurationError, StoreError."""
        url = self.settings.stores.answers
        if url is None:
            return AnswerCache(self.data / "cache" / "answers.db")
        if not is_postgres(url.get_secret_value()):
            raise ConfigurationError(
                "stores.answers names no Postgres database: write "
                "postgresql://USER:${POSTGRES_PASSWORD}@HOST/DATABASE, or leave it out for a file."
            )
        from rs_pipelines.postgres_answers import PostgresAnswerCache

        return PostgresAnswerCache(url.get_secret_value())

    def known_answers(self) -> AnswerCache | None:
        """The same; None where no model was ever asked."""
        path = self.data / "cache" / "answers.db"
        return None if self.settings.stores.answers is None and not path.exists() else self.open_answers()

    @cached_property
    def trials(self) -> "BaseStorage | None":
        """Where Optuna keeps trials that several processes reach; None: in a file beside each study."""
        url = self.settings.stores.trials
        if url is None:
            return None
        from rs_pipelines.mipro.shared_trials import open_storage

        return open_storage(url.get_secret_value())

    @cached_property
    def redactor(self) -> Redactor | None:
        """What is taken out of rows before prompts show them; None for nothing. Raises ConfigurationError."""
        return redactor_of(self.settings)

    def targets(self) -> list[Target]:
        """Template x model, one for each pair that an enabled combination serves, in the configuration's order."""
        found = (Target(c.template_id, c.model) for c in combinations_of(self.settings) if c.enabled and c.template_id)
        return list(dict.fromkeys(found))

    def target(self, template_id: str, model: str | None = None) -> Target:
        """The target to optimise. Raises ConfigurationError when the pair is unknown or the model is ambiguous."""
        known = [t for t in self.targets() if t.template_id == template_id]
        if not known:
            run = sorted({t.template_id for t in self.targets()})
            others = f"those that are run: {', '.join(run)}" if run else "add one there, with its model and provider"
            raise ConfigurationError(
                f"No enabled combination in gateway.combinations runs template {template_id!r}; {others}."
                f"{did_you_mean(template_id, run)}"
            )
        models = ", ".join(t.model for t in known)
        if model is None:
            if len(known) > 1:
                raise ConfigurationError(f"Template {template_id!r} runs on {models}: say which with --model.")
            return known[0]
        chosen = next((t for t in known if t.model == model), None)
        if chosen is None:
            meant = did_you_mean(model, [t.model for t in known])
            raise ConfigurationError(f"Template {template_id!r} does not run on {model!r}; it runs on {models}.{meant}")
        return chosen

    def target_of_key(self, key: str) -> Target:
        """The target behind a partition key. Raises ConfigurationError when no combination has it any more."""
        for target in self.targets():
            if target.key == key:
                return target
        raise ConfigurationError(f"No enabled combination stands for partition {key!r} any more.")

    def combination(self, target: Target) -> Combination:
        """The combination whose provider and parameters the search uses: the first one declared for the target."""
        for combination in combinations_of(self.settings):
            if combination.enabled and (combination.template_id, combination.model) == (
                target.template_id,
                target.model,
            ):
                return combination
        raise ConfigurationError(f"No enabled combination runs {target.template_id!r} on {target.model!r}.")

    def live(self, target: Target) -> PromptVersion:
        """The version that is served now for the target. Raises RegistryError."""
        live = self.registry.get(target.template_id).live(target.model)
        if live is None:
            raise RegistryError(f"No version of {target.template_id!r} is live for {target.model!r}.")
        return live

    def evaluator(self, template: PromptTemplate) -> Evaluator:
        """How the template's answers are scored."""
        return self.evaluator_of(self.evaluator_spec(template))

    def evaluator_of(self, spec: JsonObject) -> Evaluator:
        """The evaluator that a section describes. Raises ConfigurationError."""
        return build_evaluator(spec, resources_of(self.settings))

    def evaluator_spec(self, template: PromptTemplate) -> JsonObject:
        """The template's evaluator section, or the configured default."""
        return dict(template.evaluator) or {"name": self.settings.default_evaluator}

    def output_formats(self, target: Target) -> frozenset[OutputFormat]:
        """The output formats to try: those configured, or `bare` alone where the model is told its format otherwise."""
        if self.combination(target).parameters.keys() & {"response_format", "tools", "functions"}:
            return frozenset({OutputFormat.BARE})
        return frozenset(self.settings.mipro_v2.output_formats)

    def policy(self) -> GatePolicy:
        """What counts as proof."""
        evaluation = self.settings.evaluation
        return GatePolicy(
            min_gain=evaluation.min_gain,
            min_rows=evaluation.min_test_rows,
            max_prompt_tokens=evaluation.max_prompt_tokens,
            objective=evaluation.objective,
            max_loss=evaluation.max_loss,
        )

    def cost_of_call(self, target: Target) -> CallCost:
        """What a call of the target's model costs."""
        combination = self.combination(target)
        return self._cost_of_call(combination.provider, combination.model)

    def cost_of_proposal(self, target: Target) -> CallCost:
        """What a call of the model that proposes instructions costs."""
        return self._cost_of_call(*self._proposer(self.combination(target)))

    def _cost_of_call(self, provider: str, model: str) -> CallCost:
        prices = open_prices(self.settings)

        def cost_usd(input_tokens: int | None, output_tokens: int | None) -> float | None:
            return prices.cost_usd(provider, model, Usage(input_tokens, output_tokens, UsageSource.PROVIDER))

        return cost_usd

    @asynccontextmanager
    async def models(
        self,
        target: Target,
        *,
        on_pause: Callable[[str | None], None] = lambda why: None,
        combination: Combination | None = None,
    ) -> AsyncGenerator[StudyModels]:
        """The target's model and the proposer, both through the answer cache; closed with the block.

        Args:
            on_pause: told why calls wait for production, and None when they go on.
            combination: how the target's model is asked; None: as its first enabled combination says.
        """
        combination = combination or self.combination(target)
        proposer, model = self._proposer(combination)
        # Proposals want variety (DSPy's proposer runs at 1.0) and room; the task's own limits are not theirs.
        options = {**self.settings.model_providers[proposer].options, "temperature": 1.0, "max_tokens": 300}
        cache = self.open_answers()
        providers: dict[str, ChatProvider] = {}
        paces: dict[str, Pace] = {}
        stats = open_stats_reader(self.settings)
        peers: dict[tuple[str, bytes], CachedModel] = {}
        try:

            def asked(provider: str, name: str, parameters: JsonObject) -> CachedModel:
                if provider not in providers:
                    providers[provider] = build_provider(
                        provider, self.settings.model_providers[provider], self.settings
                    )
                    paces[provider] = self._pace(provider, stats, on_pause)
                return CachedModel(
                    providers[provider],
                    ModelIdentity(provider, name, parameters, self.settings.mipro_v2.seed),
                    cache,
                    rng=Random(),
                    limits=CallLimits(
                        max_concurrency=self.settings.mipro_v2.concurrency,
                        timeout_s=self.settings.api.timeout_seconds,
                    ),
                    peers=peer,
                    cost=self._cost_of_call(provider, name),
                    pace=paces[provider],
                )

            def peer(name: str, parameters: JsonObject) -> CachedModel:
                key = (name, msgspec.json.encode(parameters, order="sorted"))
                if key not in peers:
                    provider, model = self._provider_and_model(name, key="LLMJudge: `model`")
                    peers[key] = asked(
                        provider, model, {**self.settings.model_providers[provider].options, **parameters}
                    )
                return peers[key]

            yield StudyModels(
                task=asked(combination.provider, combination.model, combination.parameters),
                prompt=asked(proposer, model, options),
            )
        finally:
            for provider in providers.values():
                await provider.aclose()
            stats.close()
            cache.close()

    def _pace(self, provider: str, stats: StatsReader, on_pause: Callable[[str | None], None]) -> Pace:
        limit = self.settings.model_providers[provider].rate_limit
        share = self.settings.mipro_v2.rate_share
        return Pace(
            provider,
            rate_per_s=None if limit is None else share * limit / 60,
            stats=lambda since_s: stats.stats(since_s=since_s),
            on_pause=on_pause,
        )

    def _proposer(self, combination: Combination) -> tuple[str, str]:
        named = self.settings.mipro_v2.prompt_model
        if named is None:
            return combination.provider, combination.model
        return self._provider_and_model(named, key="mipro_v2.prompt_model")

    def _provider_and_model(self, name: str, *, key: str) -> tuple[str, str]:
        provider, _, model = name.partition("/")
        if provider not in self.settings.model_providers or not model:
            known = ", ".join(sorted(self.settings.model_providers))
            raise ConfigurationError(f"{key} {name!r} is not provider/model; providers are: {known}.")
        return provider, model
