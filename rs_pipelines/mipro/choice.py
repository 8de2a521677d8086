"""The final choice of a search, what it knew of each candidate, and its rule in words. Pure."""

from math import ceil

from rs_pipelines.mipro.budget import LEAST_SEEN
from rs_pipelines.mipro.estimates import GainEstimates, final_choice
from rs_pipelines.mipro.racing import LEAST_BELIEF, believed_levels, cheapest, chosen
from rs_pipelines.mipro.records import LIVE, Candidate, StudyRecord, Weighed
from rs_pipelines.mipro.reserve import prompt_length


def choice_of(study: StudyRecord) -> Candidate:
    """What the search's results speak for, under its objective; the live version as long as that has not seen all rows.

    `rule_of` says the same in words.
    """
    results, n_rows = study.results, len(study.row_order)
    if not _is_live_known(study):
        return LIVE
    candidates = study.candidates
    lengths = {candidate: prompt_length(study.text_of(candidate)) for candidate in candidates}
    if study.objective == "cost":
        return cheapest(results, candidates, lengths=lengths, n_rows=n_rows, max_loss=study.max_loss)
    if study.plan.search == "racing":
        return chosen(results, candidates, lengths=lengths, n_rows=n_rows)
    eligible = sorted(candidate for candidate, values in results.items() if len(values) == n_rows)
    return final_choice(results, eligible=eligible, lengths=lengths)


def weighed(study: StudyRecord) -> tuple[Weighed, ...]:
    """What the choice knows of every candidate that was looked at, in the order of `rows`; empty before it can know."""
    results = study.results
    if not _is_live_known(study):
        return ()
    if study.plan.search == "tpe" and study.objective == "quality":
        estimates = GainEstimates(results)
        known = [value for value in results[LIVE].values() if value is not None]
        live = sum(known) / len(known)
        return tuple(Weighed(c, live + estimates.gain(c), None, prompt_length(study.text_of(c))) for c in results)
    candidates = study.candidates
    levels = believed_levels(results, candidates)
    by = -study.max_loss if study.objective == "cost" else 0.0
    place = {candidate: n for n, candidate in enumerate(candidates)}
    return tuple(
        Weighed(
            candidate,
            float(levels.means[place[candidate]]),
            None if candidate == LIVE else levels.superiority(place[candidate], place[LIVE], by=by),
            prompt_length(study.text_of(candidate)),
        )
        for candidate in results
    )


def rule_of(study: StudyRecord) -> str:
    """How the choice was made, for a person who wonders why it is not the highest mean."""
    if not _is_live_known(study):
        return "The search ended before the live version had seen all validation rows: nothing was chosen over it."
    n_rows = len(study.row_order)
    enough = f"seen on at least {ceil(LEAST_SEEN * n_rows)} of the {n_rows} validation rows"
    probable = f"with a probability of at least {LEAST_BELIEF:.0%}"
    if study.objective == "cost":
        rule = f"the shortest prompt of those {enough} and, {probable}, not worse than live by over {study.max_loss:g}"
    elif study.plan.search == "racing":
        rule = f"the highest believed score of those {enough} and, {probable}, better than live"
    else:
        rule = f"the highest believed score of those seen on all {n_rows} validation rows"
    rule += "" if study.objective == "cost" else "; less than half a row apart, the shortest prompt"
    stays = " There was none: the live version stays." if study.best == LIVE else ""
    return (
        "Believed is what a candidate probably scores: a mean of few rows counts for little, and leans on other "
        f"candidates with the same instruction or demos. Chosen is {rule}.{stays}"
    )


def _is_live_known(study: StudyRecord) -> bool:
    # A budget that ends before the live version is evaluated leaves nothing to choose from.
    return len(study.results.get(LIVE, ())) == len(study.row_order)
