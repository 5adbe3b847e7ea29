"""The two stages of training a plug with labels, both without the LLM.

    examples ─▶ folds of users ─▶ text bodies, each fitted without a fold          fit_text
    examples ─▶ histories, whole and cut to random lengths ─▶ evidence ─┐
    of each example the body that has not met its user ─────────────────┴─▶ scorers  fit_scorers

Histories are cut to short ones often, labels are taken from the bodies at random, and a user counts by the square root
of their examples: so scorers learn to read any history, and not these users. docs/experiments.md, 2026-11-28, has
the numbers.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from embedder.compact import FloatArray
from embedder.errors import PplugError
from embedder.evidence import Evidence, evidence_of_scores
from embedder.hashing import text_sha256
from embedder.histories import NEWEST_LABELS, History, PastLabels
from embedder.pointing import UNKNOWN, ChoiceBatch, PointingHead, choice_features
from llm_jobs.labels import spelled_as
from llm_jobs.training.checkpoint import EpochLoss
from llm_jobs.training.data import Example, Tokenised
from llm_jobs.training.training import Training

TEXT_STEPS = 300
"""Most iterations of L-BFGS; it converges earlier."""

TEXT_C = 3.0
"""Inverse strength of the text bodies' L2, as scikit-learn's C (docs/experiments.md, 2026-11-28)."""

STEPS = 800
BATCH = 256
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.01

CUTS = 4
"""Copies of each example with a part of its history."""

WHOLE = 0.5
"""Share of the examples of a batch that see all of their history."""

MASKED = 0.1
"""Share of the labels that half of the batches take for unknown, so that scorers can do without the text bodies."""

MOST_ITEMS = 2048
"""Newest items that an example's evidence is made of in training: bounds the time for users with very many."""


def fit_text(training: Training) -> list[EpochLoss]:
    """Fit each text body to the users of the other folds: logistic regressions with L2.

    Raises:
        PplugError: if no target is a label.
    """
    head, known = pointing_head(training), known_examples(training, training.train)
    if not known:
        labels = ", ".join(training.plug.config.labels)
        raise PplugError(f"no target is one of the labels ({labels}): correct the choices")
    if training.plug.config.values_width:
        head.values.fit(torch.from_numpy(np.stack([one.values for one in known if one.values is not None])))
    seen, targets, bodies = inputs_of(head, known), targets_of(head, known), bodies_without(head, known)
    head.log_prior.copy_(log_prior(head, known))
    for body in range(len(head.text_weight)):
        rows = bodies != body
        if rows.any():
            fit_body(head, body, seen[rows], targets[rows])
        training.progress("text bodies without the LLM", body + 1, len(head.text_weight))
    return []


def fit_scorers(training: Training) -> list[EpochLoss]:
    """Fit the scorers to what the text bodies and the histories say; the loss is that of a label."""
    head = pointing_head(training)
    known = known_examples(training, training.train)
    with torch.no_grad():
        text = head.text_log_probs(inputs_of(head, known), bodies_without(head, known)).clamp(min=UNKNOWN)
    rng = np.random.default_rng([training.config.seed, 1])
    copies = [evidence_batch(training, known, None), *(evidence_batch(training, known, rng) for _ in range(CUTS))]
    standardise(head, choice_features(copies[0], text, head.log_prior.expand_as(text)))
    stacked = ChoiceBatch(*(torch.stack(parts) for parts in zip(*copies, strict=True)))
    targets, weights = targets_of(head, known), user_weights(known)
    with torch.random.fork_rng():
        torch.manual_seed(training.config.seed)
        optimizer = torch.optim.AdamW(head.scorers.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        total = 0.0
        for step in range(STEPS):
            rows = torch.randint(len(known), (BATCH,))
            features = drawn_features(head, stacked, text, rows)
            each = head.each(features)  # (B, L, S)
            losses = F.nll_loss(each, targets[rows, None].expand(-1, each.shape[2]), reduction="none").mean(1)
            loss = (losses * weights[rows]).sum() / weights[rows].sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            training.progress(f"steps without the LLM, loss {total / (step + 1):.3f}", step + 1, STEPS)
    train_loss = label_loss(head, known, copies[0])
    if not (held_out := known_examples(training, training.held_out)):
        return [EpochLoss(0, train_loss, train_loss)]
    return [EpochLoss(0, train_loss, label_loss(head, held_out, evidence_batch(training, held_out, None)))]


def pointing_head(training: Training) -> PointingHead:
    """The head that is trained."""
    assert isinstance(training.plug.head, PointingHead)
    return training.plug.head


def known_examples(training: Training, prepared: Sequence[Tokenised]) -> list[Tokenised]:
    """Those whose target is a label."""
    labels = set(training.plug.config.labels)
    return [item for item in prepared if item.example.target in labels]


def inputs_of(head: PointingHead, known: Sequence[Tokenised]) -> Tensor:
    """(n, X) what the text bodies see."""
    task = torch.from_numpy(np.stack([item.example.task for item in known]))
    values = [item.values for item in known if item.values is not None]
    return head.seen(task, torch.from_numpy(np.stack(values)) if values else None)


def targets_of(head: PointingHead, known: Sequence[Tokenised]) -> Tensor:
    """(n,) place of each target among the labels."""
    place = {label: at for at, label in enumerate(head.labels)}
    return torch.tensor([place[item.example.target] for item in known])


def bodies_without(head: PointingHead, known: Sequence[Tokenised]) -> Tensor:
    """(n,) the body that is not fitted to an example: one for each user; of a single user one for each prompt."""
    if len({item.example.user_id for item in known}) > 1:
        return torch.tensor([head.body_without(item.example.user_id) for item in known])
    return torch.tensor([int(text_sha256(item.example.prompt)[:16], 16) % len(head.text_weight) for item in known])


def log_prior(head: PointingHead, known: Sequence[Tokenised]) -> Tensor:
    """(L,) logarithm of each label's share, every user counting alike."""
    of_user = defaultdict[str, Counter[str]](Counter)
    for item in known:
        of_user[item.example.user_id][item.example.target] += 1
    shares = [[counts[label] / counts.total() for label in head.labels] for counts in of_user.values()]
    prior = np.mean(shares, axis=0) + 1e-3
    return torch.tensor(np.log(prior / prior.sum()), dtype=torch.float32)


def fit_body(head: PointingHead, body: int, seen: Tensor, targets: Tensor) -> None:
    """A multinomial logistic regression on examples (n, X), fitted by L-BFGS from zero."""
    weight = torch.zeros_like(head.text_weight[body], requires_grad=True)
    bias = torch.zeros_like(head.text_bias[body], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=TEXT_STEPS, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-4
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        fit = F.cross_entropy(seen @ weight + bias, targets, reduction="sum") + weight.square().sum() / (2 * TEXT_C)
        loss = fit / len(seen)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.text_weight[body] = weight
        head.text_bias[body] = bias


def user_weights(known: Sequence[Tokenised]) -> Tensor:
    """(n,) a user with four times as many examples counts twice as much."""
    counts = Counter(item.example.user_id for item in known)
    return torch.tensor([counts[item.example.user_id] ** -0.5 for item in known])


def standardise(head: PointingHead, features: Tensor) -> None:
    """See features as deviations from these (n, C, F)."""
    head.feature_mean.copy_(features.mean((0, 1)))
    head.feature_deviation.copy_(features.std((0, 1)).clamp(min=1e-3))


def drawn_features(head: PointingHead, copies: ChoiceBatch, text: Tensor, rows: Tensor) -> Tensor:
    """(B, C, F) of some examples, about half of them with a part of their history, some labels taken for unknown.

    Args:
        head: the scorers'.
        copies: of all examples, with one more dimension before the others: the first copy has the whole histories.
        text: (n, L) log-probabilities for anybody.
        rows: (B,) which examples.
    """
    drawn = torch.where(torch.rand(len(rows)) < WHOLE, 0, torch.randint(1, len(copies.named), (len(rows),)))
    batch = ChoiceBatch(*(part[drawn, rows] for part in copies))
    is_unknown = torch.rand(len(head.labels)) < (MASKED if torch.rand(()) < 0.5 else 0.0)
    unknown = torch.full((), UNKNOWN)
    seen_text = torch.where(is_unknown, unknown, text[rows])
    return choice_features(batch, seen_text, torch.where(is_unknown, unknown, head.log_prior).expand_as(seen_text))


@torch.no_grad()
def label_loss(head: PointingHead, known: Sequence[Tokenised], batch: ChoiceBatch) -> float:
    """Mean loss of a label with the whole history, as a task is answered."""
    text = head.text_log_probs(inputs_of(head, known)).clamp(min=UNKNOWN)
    log_probs = head(choice_features(batch, text, head.log_prior.expand_as(text)))
    return F.nll_loss(log_probs, targets_of(head, known)).item()


def evidence_batch(training: Training, known: Sequence[Tokenised], rng: np.random.Generator | None) -> ChoiceBatch:
    """What histories say of the labels; with `rng` random parts of them."""
    labels = training.plug.config.labels
    found = [evidence_of(item, past, labels, rng) for item, past in with_past([one.example for one in known], labels)]
    names = torch.zeros(len(labels), known[0].example.task.size)
    if training.names is not None:
        names = torch.from_numpy(training.names)
    task = torch.from_numpy(np.stack([item.example.task for item in known]))
    return ChoiceBatch.of(found, task @ names.T)


def with_past(examples: Sequence[Example], labels: Sequence[str]) -> Iterator[tuple[Example, PastLabels]]:
    """Each example with all labels of its user, which are made once for the examples of a user."""
    of_user: dict[int, PastLabels] = {}
    for example in examples:
        outputs = example.outputs
        if id(outputs) not in of_user:
            spelled = [None if output is None else spelled_as(output, labels) for output in outputs]
            of_user[id(outputs)] = PastLabels.of_items(spelled)
        yield example, of_user[id(outputs)]


def evidence_of(one: Example, past: PastLabels, labels: Sequence[str], rng: np.random.Generator | None) -> Evidence:
    """What an example's history says of the labels; with `rng` a random part of it."""
    count, vectors = len(one.history), one.history[-MOST_ITEMS:]
    rows = slice(None) if rng is None else random_part(len(vectors), rng)
    scores: FloatArray = (vectors @ one.task)[rows]
    shares = past.shares[count - len(vectors) : count][rows]
    newest = shares[-2 * NEWEST_LABELS :]
    order = tuple(newest.argmax(1)[newest.any(1)][-NEWEST_LABELS:].tolist()) if past.names else ()
    items = History(vectors, np.ones(len(scores), np.float32), vectors[:0], PastLabels(past.names, shares, order))
    return evidence_of_scores(scores, items, labels)


def random_part(count: int, rng: np.random.Generator) -> slice | np.ndarray:
    """Which items of a history are kept: mostly the newest few, else some from all over; now and then none.

    Lengths are drawn evenly by their logarithm, so short histories are frequent.
    """
    if rng.random() < 0.6:
        kept = math.floor(math.exp(rng.uniform(0, math.log(count + 2)))) - 1
        return slice(count - kept, count)
    return np.sort(rng.choice(count, math.ceil(count * rng.uniform(0.2, 1)), replace=False))
