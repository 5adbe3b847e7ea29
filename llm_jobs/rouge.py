"""ROUGE-1 and ROUGE-L of two texts, as LaMP counts them and for any script.

    "Über 5 Tage"  ─▶ ber 5 tage      official: runs of [a-z0-9] in the lower-cased text; nothing of most scripts
                   └▶ über 5 tage     unicode: runs of letters and digits; scripts without spaces by the character

Of plain ASCII text both are the same.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Final

import regex

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

OFFICIAL_SHARE: Final = 0.9
"""Least share of the references' letters and digits that the official tokenizer has to read for its numbers to mean
something: a language with some accents has more."""

_SPACELESS: Final = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_TOKEN: Final = regex.compile(
    rf"[{_SPACELESS}]\p{{M}}*"  # one character with its marks
    rf"|[[\p{{L}}\p{{N}}\p{{M}}]--[{_SPACELESS}]]+"  # a word or a number
    r"|\p{So}",  # an emoji or another sign
    regex.VERSION1,
)
_COUNTED: Final = regex.compile(r"[\p{L}\p{N}]")
_READ: Final = regex.compile(r"[a-z0-9]")


class UnicodeTokenizer:
    """Words and numbers of any script, in the way that rouge-score calls a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """Split a text into tokens; case and Unicode's compatible forms do not count."""
        return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def is_official(references: Iterable[str]) -> bool:
    """Tell whether the official tokenizer reads nearly all of some references, if there is anything to read."""
    counted = read = 0
    for reference in references:
        text = reference.lower()
        counted += len(_COUNTED.findall(text))
        read += len(_READ.findall(text))
    return counted > 0 and read >= OFFICIAL_SHARE * counted


def rouge(reference: str, prediction: str, *, is_official: bool) -> tuple[float, float]:
    """Compute the F-measures of ROUGE-1 and ROUGE-L, without stemming."""
    scores = _scorer(is_official=is_official).score(reference, prediction)
    return scores["rouge1"].fmeasure, scores["rougeL"].fmeasure


@cache
def _scorer(*, is_official: bool) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer  # takes seconds: it loads nltk

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False, tokenizer=None if is_official else UnicodeTokenizer())
