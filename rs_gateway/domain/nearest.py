"""The demos of a pool that are most like an input: tf-idf and cosine, over words."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_HAN = "\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ece\u0edc-\u0edf"  # Lao
    "\u0f40-\u0f84\u0f86-\u0fbc"  # Tibetan, which has a point between syllables only
    "\u1000-\u103f\u1050-\u108f\u109a-\u109d"  # Burmese
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "\ua980-\ua9c0"  # Javanese
    "\u1100-\u11ff\uac00-\ud7ff"  # Korean, which has spaces, and endings on most words
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31f0-\u31ff" + _HAN
)
"""Letters and marks of scripts whose words do not show."""
_MARKS = "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0dff"
"""Vowels and the like that belong to a word, as they do in Hindi and Arabic, and are no letters to Python."""
_WORD = re.compile(r"\w+")
_RUN = re.compile(f"[{_UNSPACED}]+|(?:[^\\W{_UNSPACED}]|[{_MARKS}])+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_HAN_CHARACTER = re.compile(f"[{_HAN}]")


class NearestIndex:
    """Answers which of some texts are most like another one. Built once; a query costs what its terms occur.

    Source: tf-idf with logarithmic tf and smoothed idf, Manning, Raghavan & Schuetze (2008), section 6.4.
    """

    __slots__ = ("_n_texts", "_postings")

    def __init__(self, texts: Sequence[str]) -> None:
        self._n_texts = len(texts)
        counts = [Counter(terms_of(text)) for text in texts]
        occurs = Counter(term for count in counts for term in count)
        self._postings: dict[str, list[tuple[int, float]]] = {}
        for position, count in enumerate(counts):
            weights = {term: (1 + math.log(n)) * self._idf(occurs[term]) for term, n in count.items()}
            length = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
            for term, weight in weights.items():
                # The term's idf once more, for the query's own weight.
                self._postings.setdefault(term, []).append((position, weight / length * self._idf(occurs[term])))

    def nearest(self, text: str, count: int) -> list[int]:
        """Positions of the `count` texts most like `text`, the most like one last; among equals the first ones.

        Last, because a model leans on what it read last.
        """
        scores = [0.0] * self._n_texts
        # In the text's order: added up in another one, equal scores differ in their last digit.
        for term in dict.fromkeys(terms_of(text)):
            for position, weight in self._postings.get(term, ()):
                scores[position] += weight
        return sorted(range(self._n_texts), key=scores.__getitem__, reverse=True)[:count][::-1]

    def _idf(self, n_texts_with_it: int) -> float:
        return math.log((1 + self._n_texts) / (1 + n_texts_with_it)) + 1


def terms_of(text: str) -> list[str]:
    """What likeness is counted by, in one spelling (NFKC, no case): words, and letter pairs where words do not show.

    Chinese characters count one by one as well: many are words.
    """
    if text.isascii():
        return _WORD.findall(text.lower())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if _IS_UNSPACED.search(folded) is None:
        return _RUN.findall(folded)
    terms: list[str] = []
    for run in _RUN.findall(folded):
        if len(run) == 1 or _IS_UNSPACED.match(run) is None:
            terms.append(run)
        else:
            terms += _HAN_CHARACTER.findall(run)
            terms += map(str.__add__, run, run[1:])
    return terms
