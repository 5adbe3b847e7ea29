"""Tiny real models with a tiny real tokenizer, saved as folders like downloaded ones.

The weights are drawn wider than usual, so that the logits of two tokens are rarely close to a tie, and a third of the
vocabulary ends an answer, so that the rows of a batch end at different steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import DECODER_SIZES, tiny_llama, tiny_tokenizer
from tiny_models import save_model as save_tiny_model
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llm_jobs import FrozenLLM
from llm_jobs.prompts import PromptParts

CONTEXT = 96


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[bool], PreTrainedTokenizerFast]:
    """A new tokenizer, with a chat template or without."""
    return lambda is_chat: tiny_tokenizer(is_chat=is_chat)


def widen(model: PreTrainedModel) -> PreTrainedModel:
    """Weights three times as wide as drawn."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
    model.generation_config.eos_token_id = [2, *range(200, 300)]
    return model.eval()


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, PreTrainedModel, bool], Path]:
    """Write a model and a tokenizer as a Hugging Face folder."""

    def save(name: str, model: PreTrainedModel, is_chat: bool) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        return save_tiny_model(folder, widen(model), is_chat=is_chat)

    return save


@pytest.fixture(scope="session")
def tiny_llm_folder(save_model: Callable[[str, PreTrainedModel, bool], Path]) -> Path:
    """A Llama with two query heads for each key head."""
    return save_model("llama", tiny_llama(0, CONTEXT), True)


@pytest.fixture(scope="session")
def tiny_qwen_folder(save_model: Callable[[str, PreTrainedModel, bool], Path]) -> Path:
    """A decoder our own forward pass does not know: it goes through `transformers`. No chat template."""
    torch.manual_seed(1)
    config = Qwen3Config(**DECODER_SIZES, head_dim=8, max_position_embeddings=CONTEXT)
    return save_model("qwen3", Qwen3ForCausalLM(config), False)


@pytest.fixture(scope="session")
def tiny_t5_folder(save_model: Callable[[str, PreTrainedModel, bool], Path]) -> Path:
    """A sequence-to-sequence model."""
    torch.manual_seed(2)
    config = T5Config(
        vocab_size=300,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.1,
        decoder_start_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    return save_model("t5", T5ForConditionalGeneration(config), False)


@pytest.fixture(scope="session")
def tiny_llm(tiny_llm_folder: Path) -> FrozenLLM:
    return FrozenLLM.from_pretrained(str(tiny_llm_folder))


@pytest.fixture(scope="session")
def tiny_qwen(tiny_qwen_folder: Path) -> FrozenLLM:
    return FrozenLLM.from_pretrained(str(tiny_qwen_folder))


@pytest.fixture(scope="session")
def tiny_t5(tiny_t5_folder: Path) -> FrozenLLM:
    return FrozenLLM.from_pretrained(str(tiny_t5_folder))


def reference_model(folder: Path) -> PreTrainedModel:
    """The model of a folder as `transformers` loads it, untouched by us: what the oracles ask."""
    is_t5 = AutoConfig.from_pretrained(folder).is_encoder_decoder
    auto = AutoModelForSeq2SeqLM if is_t5 else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


@dataclass(frozen=True)
class Pair:
    """One model twice: in our engine, and as `transformers` runs it."""

    llm: FrozenLLM
    reference: Any

    def soft_prompt(self, size: int, seed: int) -> Tensor:
        """A soft prompt (size, E) whose vectors are as long as the LLM's own embeddings."""
        drawn = torch.randn(size, self.llm.width, generator=torch.Generator().manual_seed(seed))
        return drawn / drawn.norm(dim=1, keepdim=True) * self.llm.embedding_norm

    def embeds(self, parts: PromptParts, soft: Tensor, answer: tuple[int, ...] = ()) -> Tensor:
        """(1, tokens, E) of one prompt, not padded."""
        embed = self.reference.get_input_embeddings()
        before, after = torch.tensor(parts.before, dtype=torch.long), torch.tensor(parts.after + answer)
        return torch.cat([embed(before), soft, embed(after.long())])[None]

    def logits(self, parts: PromptParts, soft: Tensor, answer: tuple[int, ...]) -> Tensor:
        """Logits (len(answer) + 1, V) of each token of the answer and of what follows it; no cache, no batch."""
        if self.llm.is_encoder_decoder:
            start = self.reference.generation_config.decoder_start_token_id
            inputs = self.embeds(parts, soft)
            return self.reference(inputs_embeds=inputs, decoder_input_ids=torch.tensor([[start, *answer]])).logits[0]
        return self.reference(inputs_embeds=self.embeds(parts, soft, answer)).logits[0, -len(answer) - 1 :]

    def token_log_probs(self, parts: PromptParts, soft: Tensor, answer: tuple[int, ...]) -> Tensor:
        """Log-probability of each token of the answer from one full forward pass."""
        return self.logits(parts, soft, answer)[:-1].log_softmax(-1)[torch.arange(len(answer)), list(answer)]

    def generated_ids(self, parts: PromptParts, soft: Tensor, limit: int, num_beams: int = 1) -> list[int]:
        """What `transformers` itself generates for the prompt alone."""
        embeds = self.embeds(parts, soft)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        ids = self.reference.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=limit, do_sample=False, num_beams=num_beams
        )
        return (
            ids[0, 1:].tolist() if self.llm.is_encoder_decoder else ids[0].tolist()
        )  # T5's begins with its start token


@pytest.fixture(scope="session", params=["llama", "qwen", "t5"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Our Llama forward pass, `transformers`' of another decoder, and a sequence-to-sequence model."""
    return pair_of(request)


@pytest.fixture(scope="session", params=["llama", "qwen"])
def causal_pair(request: pytest.FixtureRequest) -> Pair:
    """The first two."""
    return pair_of(request)


def pair_of(request: pytest.FixtureRequest) -> Pair:
    name = {"llama": "tiny_llm", "qwen": "tiny_qwen", "t5": "tiny_t5"}[request.param]
    return Pair(request.getfixturevalue(name), reference_model(request.getfixturevalue(f"{name}_folder")))


@pytest.fixture(scope="session")
def pair_in() -> Callable[[Path], Pair]:
    """The model of a folder, twice."""
    return lambda folder: Pair(FrozenLLM.from_pretrained(str(folder)), reference_model(folder))
