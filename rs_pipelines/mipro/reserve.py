"""What of a budget is kept back for the comparison after the search, so that a search always ends in a verdict."""

from collections.abc import Sequence
from dataclasses import replace

from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.prompts import PromptText
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.foresight import Needed, input_bound, needed_for
from rs_pipelines.mipro.budget import RETRY_SHARE, least_rows, search_calls, study_allowance
from rs_pipelines.mipro.demos import assemble_demo_sets, demo_rows
from rs_pipelines.mipro.formats import without_format
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.mipro.redacted import redacted_examples
from rs_pipelines.mipro.request import StudyRequest
from rs_pipelines.sample import Example, Split
from rs_pipelines.spending import Allowance


class ComparisonReserve:
    """What the comparison of one study will take, the longest candidate seen so far taken for the winner."""

    def __init__(self, request: StudyRequest, *, task: CachedModel, evaluator: Evaluator) -> None:
        """
        Args:
            task: knows what its calls took so far.
        Raises:
            ConfigurationError: the budget in calls does not even cover live version and comparison.
        """
        self._request, self._task, self._evaluator = request, task, evaluator
        self._without_calls = study_allowance(request.plan, request.sample, request.comparison)

    def allowance(self, record: StudyRecord) -> Allowance:
        """What the search may spend in all. A function of the record and of what calls took until it was saved."""
        # Before the live version is evaluated nobody knows what calls take.
        if not record.rows:
            return self._without_calls
        request, often = self._request, self._task.calls_per_answer
        calls = search_calls(request.plan, request.sample, request.comparison, calls_per_answer=often)
        allowance = replace(self._without_calls, calls=calls)
        if allowance.only_calls:
            return allowance
        return _without(allowance, self.comparison(_longest_seen(record)))

    def answers_left(self, record: StudyRecord) -> int | None:
        """Answers that the search may still ask for, judged ones with their judge's calls; None is no limit.

        Each is taken to be asked with the longest prompt seen so far. As of the last save, and not of this moment: a
        search that was killed in between decides as it would have.
        """
        allowance = self.allowance(record)
        left: list[float] = []
        if allowance.calls is not None:
            left.append((allowance.calls - record.calls) / (1 + record.plan.questions_per_answer))
        rows = self._val_rows
        if record.rows and not allowance.only_calls:
            needed = self._needed(_longest_seen(record), rows)
            if allowance.tokens is not None and needed.tokens:
                left.append((allowance.tokens - record.booked_tokens) / needed.tokens * len(rows))
            if allowance.usd is not None and needed.usd:
                left.append((allowance.usd - record.usd) / needed.usd * len(rows))
        return max(0, int(min(left))) if left else None

    def least(self) -> Needed:
        """What no gain can be proven without: evaluating the live version, making and seeing a candidate, comparing it.

        By the demo sets that can be foreseen; what the prompt model takes is left out.
        """
        request, longest = self._request, longest_planned(self._request)
        train, n_looks = request.sample.rows(Split.TRAIN), least_rows(request.plan, len(self._val_rows))
        needed = self._needed(request.live.text, self._val_rows) + self._needed(longest, self._val_rows[:n_looks])
        return needed + self._needed(longest, train[: request.plan.screen_rows]) + self.comparison(longest)

    @property
    def _val_rows(self) -> Sequence[Example]:
        return self._request.sample.rows(Split.VAL)[: self._request.plan.val_rows]

    def comparison(self, longest: PromptText) -> Needed:
        """What the comparison will take if all prompts but the live version are as long as this one."""
        request, size = self._request, self._request.comparison
        test = request.sample.rows(Split.TEST)
        needed = self._needed(request.live.text, test)
        one = self._needed(longest, test)
        for _ in range(size.prompts - 1):
            needed += one
        timed = self._needed(longest, test[: size.timed_calls])
        return _with_margin(needed + timed)

    def longest_by_live(self) -> float:
        """How many times as long as the live version's the longest foreseeable request is, in bytes."""
        request = self._request
        rows, template_id = request.sample.rows(Split.VAL), request.target.template_id
        live = input_bound(request.live.text, rows, template_id=template_id)
        return input_bound(longest_planned(request), rows, template_id=template_id) / live if live else 1.0

    def _needed(self, text: PromptText, rows: Sequence[Example]) -> Needed:
        template_id = self._request.target.template_id
        return needed_for(text, rows, template_id=template_id, model=self._task, evaluator=self._evaluator)


def _longest_seen(record: StudyRecord) -> PromptText:
    return max((record.text_of(entry.candidate) for entry in record.rows), key=prompt_length)


def longest_planned(request: StudyRequest) -> PromptText:
    """The live version with the longest demo set that can be foreseen without asking anybody."""
    base = without_format(request.live.text)
    train = redacted_examples(request.sample.rows(Split.TRAIN), request.redactor)
    rows = demo_rows(request.live.text, train, template_id=request.target.template_id, seed=request.plan.seed)
    sets = assemble_demo_sets(base, rows, right=(), wrong=(), plan=request.plan, earlier=request.earlier)
    texts = [replace(request.live.text, demos=demo_set.demos, nearest=demo_set.nearest) for demo_set in sets]
    return max([request.live.text, *texts], key=prompt_length)


def prompt_length(text: PromptText) -> int:
    """Characters of a prompt as a request carries it, apart from the user text."""
    demos = sum(len(demo.user) + len(demo.assistant) for demo in text.demos)
    shown = text.nearest / len(text.demos) if text.nearest else 1.0
    return len(text.instruction) + round(shown * demos)


def _with_margin(needed: Needed) -> Needed:
    """With what retries and longer answers may take, and with room for the last call's booking."""
    share = 1 + RETRY_SHARE
    tokens, usd = round(share * needed.tokens) + needed.largest.tokens, share * needed.usd + needed.largest.usd
    return replace(needed, tokens=tokens, usd=usd)


def _without(allowance: Allowance, needed: Needed) -> Allowance:
    return Allowance(
        calls=allowance.calls,
        tokens=None if allowance.tokens is None else max(0, allowance.tokens - needed.tokens),
        usd=None if allowance.usd is None else max(0.0, allowance.usd - needed.usd),
    )
