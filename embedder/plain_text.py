"""Split texts into token ids, without ever taking what a text spells out for a control token.

A tokenizer finds its control tokens ("</s>", "[SEP]", "<think>") wherever a text has their names, so that a user's text
could end a prompt or begin another. Here they have other names, which no text can know: what spells out one of the old
ones is split like any other text.
"""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from embedder.errors import PplugError

PROBE = "A quick brown fox jumps over the lazy dog: 0 1 2."
"""transformers makes up a tokenizer without words where a folder has none; it makes one token of this, or none."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, none of whose code is run; raises PplugError if none can be read."""
    reason = ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if len(set(tokenizer(PROBE, add_special_tokens=False)["input_ids"])) > 1:
            return tokenizer
    except Exception as error:  # from a dozen libraries, each with errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    models = sorted(path.name for path in folder.glob("*.model"))
    if models and not (folder / "tokenizer.json").is_file():
        reason = (
            f"{models[0]} alone is not read, tokenizer.json is: where sentencepiece is installed, "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r}) writes it"
        )
    reason = reason or "it knows no words: is tokenizer.json missing?"
    raise PplugError(f"the tokenizer in {folder} cannot be read ({reason}): choose another model")


class PlainTextTokenizer:
    """Token ids of texts that hold nothing but text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        known: Any = tokenizer  # its attributes are typed as anything
        added: dict[int, Any] = known.added_tokens_decoder
        names = {
            token.content: number for number, token in added.items() if token.special or not is_words(token.content)
        }
        names |= zip(known.all_special_tokens, known.all_special_ids, strict=True)
        self._tokenizer, self._names = known, names
        self._backend: Tokenizer | None = None
        if known.is_fast:
            self._backend = renamed_tokens(known.backend_tokenizer, names)
            self._backend.no_padding()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, and of nothing else."""
        if self._backend is None:
            return [self._ids_in_pieces(text) for text in texts]
        self._backend.no_truncation()
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def framed_ids(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Ids of each text with the control tokens that the tokenizer puts around one, together at most `most`."""
        if self._backend is None:
            room = most - self._tokenizer.num_special_tokens_to_add()
            return [self._tokenizer.build_inputs_with_special_tokens(ids[:room]) for ids in self.ids(texts)]
        self._backend.enable_truncation(most, direction=self._tokenizer.truncation_side)
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]

    def _ids_in_pieces(self, text: str) -> list[int]:
        """For tokenizers written in Python: control tokens are cut in two before they are seen."""
        for name in sorted(self._names, key=len, reverse=True):
            at = text.find(name) if len(name) > 1 else -1
            if at >= 0:
                return self._ids_in_pieces(text[: at + 1]) + self._ids_in_pieces(text[at + 1 :])
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def is_words(name: str) -> bool:
    """Whether an added token is plain text, as words of a trade or runs of spaces are, and not markup."""
    return all(character.isalnum() or character.isspace() for character in name)


def renamed_tokens(tokenizer: Tokenizer, names: Sequence[str] | dict[str, int]) -> Tokenizer:
    """A copy of a tokenizer in which tokens have names that nobody can guess, and the ids that they had."""
    secret = secrets.token_hex(16)
    new = {name: f"{secret}{number}" for number, name in enumerate(names)}
    made: dict[str, Any] = json.loads(tokenizer.to_str())
    for token in made["added_tokens"]:
        token["content"] = new.get(token["content"], token["content"])
    model = made["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {new.get(piece, piece): number for piece, number in model["vocab"].items()}
    else:
        model["vocab"] = [[new.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = new.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        model["merges"] = [
            [left, right] for left, right in model["merges"] if not {left, right, left + right[prefix:]} & new.keys()
        ]
    return Tokenizer.from_str(json.dumps(made))
