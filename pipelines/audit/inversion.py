"""Read texts back from vectors: a linear map learned from leaked pairs, then the nearest text and the likeliest words.

    half of the users: vectors with their texts ─▶ ridge regression ─▶ map of a vector ─┬─▶ vector of a text ─▶ nearest
    other half: vectors alone ─────────────────────────────────────▶ mapped ────────────┴─▶ words of a text

The attacker holds a list of texts that may be somebody's (`Known`), those of the victims among them, and knows the
encoder. Research does better than a linear map with more data and models of its own: vec2text (arXiv:2310.06816),
ALGEN (arXiv:2502.11308). So these numbers are what anybody can do in a minute, not the most that can be done.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedder.compact import FloatArray
from llm_jobs.metrics import Floats
from llm_jobs.rouge import UnicodeTokenizer
from pipelines.audit.sample import Known, Leak, Places

COMMON = 0.2  # share of the leaked texts from which on a word tells nothing of a text and is not counted
VOCABULARY = 2_000  # most words that the map can tell

STRENGTHS = (1e-4, 1e-2, 1e-1, 1.0)
"""Ridge penalties that are tried, relative to the mean square of a vector's numbers times the pairs."""

LEAST_PAIRS = 10  # pairs below which nobody learns a map


class Read(NamedTuple):
    """What an attacker makes of one vector."""

    known: str  # the nearest of all known texts
    guesses: tuple[Counter[str], ...]  # words of the nearest leaked text, and the likeliest words


def invert(leak: Leak, known: Known) -> tuple[Floats, Floats]:
    """Attack every second user with pairs of the others.

    Returns:
        (A, 3) how many items of each user attacked are the known text nearest to one of the vectors, and (A, 3) sums of
        the best token F1 with what was reconstructed: items, with the user's own vectors, with another's.
    """
    is_leaked = np.arange(len(known.users)) % 2 == 0
    words = Words(known, is_leaked)
    read = read_vectors(leak, known, is_leaked, words)
    of_user = defaultdict[int, list[Read]](list)
    for owner, one in zip(leak.owners[~is_leaked[leak.owners]].tolist(), read, strict=True):
        of_user[owner].append(one)
    victims = np.flatnonzero(~is_leaked).tolist()
    found, overlap = (np.zeros((len(victims), 3)) for _ in range(2))
    for row, user in enumerate(victims):
        texts = known.of_user[user].tolist()
        found[row, 0] = overlap[row, 0] = len(texts)
        for column, donor in ((1, user), (2, victims[(row + 1) % len(victims)])):
            seen = {one.known for one in of_user[donor]}
            tried = [guess for one in of_user[donor] for guess in one.guesses]
            found[row, column] = sum(known.texts[at] in seen for at in texts)
            overlap[row, column] = sum(
                max((token_f1(words.tokens[at], one) for one in tried), default=0) for at in texts
            )
    return found, overlap


def read_vectors(leak: Leak, known: Known, is_leaked: NDArray[np.bool_], words: "Words") -> list[Read]:
    """Read the vectors of users without leaked pairs; nothing of them, where there are too few pairs to learn from."""
    attacked = leak.vectors[~is_leaked[leak.owners]]
    pairs = [at for at, owner in enumerate(leak.owners) if is_leaked[owner] and len(leak.behind[at])]
    if len(pairs) < LEAST_PAIRS or not len(attacked):
        return [Read("", ())] * len(attacked)
    behind, width = [leak.behind[at] for at in pairs], known.vectors.shape[1]
    targets = np.hstack([means_of(known.vectors, behind), means_of(words.bags, behind)])
    mapped = best_map(leak.vectors[pairs], targets, width, attacked)
    own = np.flatnonzero(is_leaked[known.owners])
    nearest: list[int] = nearest_texts(mapped[:, :width], known.vectors).tolist()
    nearest_own: list[int] = own[nearest_texts(mapped[:, :width], known.vectors[own])].tolist()
    likely = words.likeliest(mapped[:, width:])
    return [
        Read(known.texts[text], (words.tokens[alike], one))
        for text, alike, one in zip(nearest, nearest_own, likely, strict=True)
    ]


class Words:
    """The words of texts but the most common ones, and those that occur in more than one leaked text."""

    def __init__(self, known: Known, is_leaked: NDArray[np.bool_]) -> None:
        split = UnicodeTokenizer().tokenize
        every = [Counter(split(text)) for text in known.texts]
        leaked = [one for one, owner in zip(every, known.owners, strict=True) if is_leaked[owner]]
        in_texts = Counter(word for one in leaked for word in one)
        common = {word for word, count in in_texts.items() if count > max(1, COMMON * len(leaked))}
        self.tokens = [Counter({word: one[word] for word in one if word not in common}) for one in every]
        rare = ((word, count) for word, count in in_texts.most_common() if word not in common and count > 1)
        self.vocabulary = [word for word, _ in islice(rare, VOCABULARY)]
        place = {word: at for at, word in enumerate(self.vocabulary)}
        self.bags = np.zeros((len(self.tokens), len(place)), np.float32)
        for row, one in enumerate(self.tokens):
            self.bags[row, [place[word] for word in one if word in place]] = 1
        lengths = [len(one) for one, owner in zip(self.tokens, known.owners, strict=True) if is_leaked[owner]]
        self.length = max(1, round(float(np.mean(lengths or [1]))))
        """Words of a text, as the attacker knows texts."""

    def likeliest(self, scores: Floats) -> list[Counter[str]]:
        """The words that are most likely by scores (V, words)."""
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.length]
        return [Counter(self.vocabulary[at] for at in row) for row in order]


def token_f1(reference: Counter[str], guess: Counter[str]) -> float:
    """F1 of the words that two texts share."""
    shared = (reference & guess).total()
    return 2 * shared / (reference.total() + guess.total()) if shared else 0.0


def means_of(rows: FloatArray, groups: Sequence[Places]) -> Floats:
    """(n, K) the mean of some of the rows for each group."""
    return np.stack([rows[group].mean(0) for group in groups]).astype(np.float64)


def nearest_texts(vectors: Floats, texts: FloatArray) -> Places:
    """(V,) the place of the text whose vector has the greatest cosine to each."""
    return np.argmax(vectors @ texts.T, axis=1) if len(texts) else np.zeros(len(vectors), np.int64)


def best_map(pairs: FloatArray, targets: Floats, width: int, attacked: FloatArray) -> Floats:
    """(V, D + words) what vectors map to, by the map that does best on a fifth of the pairs which it was not fitted to.

    Args:
        pairs: (n, W) leaked vectors.
        targets: (n, D + words) what they stand for.
        width: D; where W is D the vectors themselves are tried too.
        attacked: (V, W) the others.
    """
    kept = np.arange(len(pairs)) % 5 > 0
    tried: dict[float | None, float] = {
        strength: mean_cosine(
            ridge(pairs[kept], targets[kept], strength, pairs[~kept])[:, :width], targets[~kept][:, :width]
        )
        for strength in STRENGTHS
    }
    best = max(tried, key=lambda strength: tried[strength])
    found = ridge(pairs, targets, best or 0.0, attacked)
    if (
        pairs.shape[1] == width
        and mean_cosine(pairs[~kept].astype(np.float64), targets[~kept][:, :width]) > tried[best]
    ):
        found[:, :width] = attacked
    return found


def mean_cosine(found: Floats, wanted: Floats) -> float:
    """How like rows are to those that were wanted."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(np.mean((found * wanted).sum(1) / np.maximum(lengths, 1e-12)))


def ridge(pairs: FloatArray, targets: Floats, strength: float, asked: FloatArray) -> Floats:
    """(V, K) ridge regression of targets (n, K) on pairs (n, W), for rows (V, W); solved in the smaller of n and W."""
    centre, middle = pairs.mean(0, dtype=np.float64), targets.mean(0)
    seen, wanted, rows = pairs - centre, targets - middle, asked - centre
    penalty = strength * max(float((seen**2).mean()), 1e-12) * len(seen)
    if len(seen) < seen.shape[1]:
        return rows @ seen.T @ np.linalg.solve(seen @ seen.T + penalty * np.eye(len(seen)), wanted) + middle
    return rows @ np.linalg.solve(seen.T @ seen + penalty * np.eye(seen.shape[1]), seen.T @ wanted) + middle
