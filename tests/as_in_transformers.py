"""Compare an LLM's answers with those of `transformers`: free and closed ones, with soft prompts and without."""

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

import torch

from llm_jobs import FrozenLLM
from llm_jobs.prompts import Answer, Placement, Request

CLOSE = 2e-3
"""Difference of mean log-probabilities that rounding makes."""
CHOICES = ("arts & culture", "arts", "sports", "world news")


def requests_for(llm: FrozenLLM) -> list[Request]:
    """A queue of mixed lengths, some with soft prompts, some closed; the last ones grow beyond a length of 24."""
    generator = torch.Generator().manual_seed(0)

    def soft(size: int) -> torch.Tensor | None:
        vectors = torch.randn(size, llm.width, generator=generator)
        return vectors / vectors.norm(dim=1, keepdim=True) * llm.embedding_norm if size else None

    texts = [
        "which",
        "which news category does this article belong to " * 2,
        "arts and culture",
        "é 你好",
        "a b c d e f",
    ]
    sizes = (0, 2, 3, 0, 1)
    free = [Request(text, soft(size), None, 12) for text, size in zip(texts, sizes, strict=True)]
    closed = [Request(text, soft(size), CHOICES) for text, size in zip(texts, sizes, strict=True)]
    return [*free, *closed]


def differences(llm: FrozenLLM, reference: Any) -> Iterator[str]:
    """What the LLM answers differently from the model as transformers runs it."""
    requests = requests_for(llm)
    for request, answer in zip(requests, llm.answer(requests, Placement.AFTER), strict=True):
        kind = "closed" if request.choices else "free"
        kind += "" if request.soft_prompt is None else ", soft prompt"
        if not isinstance(answer, Answer):
            yield f"{kind}: {answer}"
        elif request.choices:
            scores = [closed_score(llm, reference, request, llm.answer_ids(choice)) for choice in request.choices]
            best = max(scores)
            if abs(answer.score - best) > CLOSE or scores[request.choices.index(answer.text)] < best - CLOSE:
                yield f"{kind}: {answer.text!r} {answer.score:.4f} where {best:.4f} is right"
        else:
            right = [free_answer(llm, reference, request)]
            if (
                request.soft_prompt is not None and not llm.is_encoder_decoder
            ):  # moshi's `generate` reads embeddings wrongly
                embeds = inputs_of(llm, request)["inputs_embeds"]
                right.append(slow_answer(llm, reference, embeds, request.max_new_tokens))
            told = [(llm.format.tokenizer.decode(ids, skip_special_tokens=True).strip(), score) for ids, score in right]
            if not answer.tie_count and not any(is_same(answer, *one) for one in told):
                text, score = told[0]
                yield f"{kind}: {answer.text!r} {answer.score:.4f} where {text!r} {score:.4f} is right"


def is_same(answer: Answer, text: str, score: float) -> bool:
    """Whether an answer is this one, up to rounding."""
    return answer.text == text and abs(answer.score - score) <= CLOSE


def embedded(llm: FrozenLLM, ids: Sequence[int]) -> torch.Tensor:
    """The LLM's input embeddings of some tokens: (n, E), in float32."""
    return llm.engine.embed(torch.tensor(ids, dtype=torch.long)).float().detach()


def inputs_of(llm: FrozenLLM, request: Request) -> dict[str, torch.Tensor]:
    """A prompt as transformers takes it: ids, or embeddings if it has a soft prompt."""
    parts = llm.parts(request.prompt, Placement.AFTER, 24)
    ids = torch.tensor([parts.before + parts.after])
    if request.soft_prompt is None:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pieces = [embedded(llm, parts.before), request.soft_prompt, embedded(llm, parts.after)]
    embeds = torch.cat(pieces)[None]
    return {"inputs_embeds": embeds, "attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long)}


def free_answer(llm: FrozenLLM, reference: Any, request: Request) -> tuple[list[int], float]:
    """What `generate` answers to one prompt, and its mean log-probability."""
    inputs = inputs_of(llm, request)
    if "inputs_embeds" in inputs and not llm.is_encoder_decoder:
        names = signature(reference.prepare_inputs_for_generation).parameters
        if "inputs_embeds" not in names:  # `generate` takes ids only
            return slow_answer(llm, reference, inputs["inputs_embeds"], request.max_new_tokens)
    said = reference.generate(
        **inputs,
        max_new_tokens=request.max_new_tokens,
        do_sample=False,
        num_beams=1,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.cat(said.logits).float()
    ids = said.sequences[0, -len(logits) :]
    return ids.tolist(), float(logits.log_softmax(1).gather(1, ids[:, None]).mean())


def slow_answer(llm: FrozenLLM, reference: Any, embeds: torch.Tensor, limit: int) -> tuple[list[int], float]:
    """The same by one plain pass over everything for each token."""
    ids, scores = list[int](), list[float]()
    while len(ids) < limit and not (ids and ids[-1] in reference.generation_config.eos_token_id):
        whole = torch.cat([embeds, embedded(llm, ids)[None]], dim=1)
        best = reference(inputs_embeds=whole, use_cache=False).logits[0, -1].float().log_softmax(0).max(0)
        ids.append(int(best.indices))
        scores.append(float(best.values))
    return ids, sum(scores) / len(scores)


def closed_score(llm: FrozenLLM, reference: Any, request: Request, choice: tuple[int, ...]) -> float:
    """Mean log-probability of a choice from one plain pass."""
    inputs, targets = inputs_of(llm, request), torch.tensor(choice)
    if llm.is_encoder_decoder:
        start = reference.generation_config.decoder_start_token_id
        logits = reference(**inputs, decoder_input_ids=torch.tensor([[start, *choice[:-1]]])).logits[0]
    else:
        if "input_ids" in inputs:
            whole = {"input_ids": torch.cat([inputs["input_ids"], targets[None, :-1]], dim=1)}
        else:
            behind = embedded(llm, choice[:-1])[None]
            whole = {"inputs_embeds": torch.cat([inputs["inputs_embeds"], behind], dim=1)}
        logits = reference(**whole, use_cache=False).logits[0, -len(choice) :]
    return float(logits.float().log_softmax(1).gather(1, targets[:, None]).mean())
