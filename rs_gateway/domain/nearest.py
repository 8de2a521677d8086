"""The demos of a pool that are most like an input: tf-idf and cosine, over words."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from heapq import nlargest

_WORD = re.compile(r"\w+")


class NearestIndex:
    """Answers which of some texts are most like another one. Built once; a query costs what its words occur.

    Source: tf-idf with logarithmic tf and smoothed idf, Manning, Raghavan & Schuetze (2008), section 6.4.
    """

    __slots__ = ("_n_texts", "_postings")

    def __init__(self, texts: Sequence[str]) -> None:
        self._n_texts = len(texts)
        counts = [Counter(_words(text)) for text in texts]
        occurs = Counter(word for count in counts for word in count)
        self._postings: dict[str, list[tuple[int, float]]] = {}
        for position, count in enumerate(counts):
            weights = {word: (1 + math.log(n)) * self._idf(occurs[word]) for word, n in count.items()}
            length = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
            for word, weight in weights.items():
                # The word's idf once more, for the query's own weight.
                self._postings.setdefault(word, []).append((position, weight / length * self._idf(occurs[word])))

    def nearest(self, text: str, count: int) -> list[int]:
        """Positions of the `count` texts most like `text`, the most like one last; among equals the first ones.

        Last, because a model leans on what it read last.
        """
        scores: dict[int, float] = {}
        for word in set(_words(text)):
            for position, weight in self._postings.get(word, ()):
                scores[position] = scores.get(position, 0.0) + weight
        found = nlargest(count, range(self._n_texts), key=lambda position: (scores.get(position, 0.0), -position))
        return found[::-1]

    def _idf(self, n_texts_with_it: int) -> float:
        return math.log((1 + self._n_texts) / (1 + n_texts_with_it)) + 1


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
