"""The span reader's head and the two fine-tuning losses (ORQA, as REALM uses it). The encoder below it is encoder.py's.

Shapes: B questions, K passages read for each, N passages retrieved for each, R rows of (question, passage) pairs,
L tokens, T of them from the first to the last of a passage, S of these at which a span of one width begins, W span
widths (index w is a span of w + 1 tokens), E encoder width, H span width, X best spans.
A span is named by the position of its first token and by w; its last token is at start + w.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

IMPOSSIBLE = -1e4
"""The logit of a span that is not passage text. Finite, so that a question without any span has no NaN gradient."""


class SpanScorer(nn.Module):
    """Scores every span of up to `max_span_tokens` tokens: w . LayerNorm(ReLU(W_s h_start + W_e h_end)) + c."""

    def __init__(self, hidden_size: int, span_hidden_size: int, max_span_tokens: int) -> None:
        super().__init__()
        self.max_span_tokens = max_span_tokens
        self.ends = nn.Linear(hidden_size, 2 * span_hidden_size)
        """First half makes a start of a token, second half an end."""
        self.norm = nn.LayerNorm(span_hidden_size, eps=1e-3)
        self.score = nn.Linear(span_hidden_size, 1)
        for layer in (self.ends, self.score):
            nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
            nn.init.zeros_(layer.bias)

    def forward(self, states_RLE: Tensor, is_passage_RL: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [R, L, W], possible [R, L, W]): a span is possible where both its ends are passage tokens.

        Work is spent on passage tokens only: positions before the first and after the last of the batch are cut off.
        """
        num_tokens = states_RLE.shape[1]
        first, stop = _extent(is_passage_RL)
        starts_RTH, ends_RTH = self.ends(states_RLE[:, first:stop]).chunk(2, dim=-1)
        logits_RTW = torch.stack([self._of_width(starts_RTH, ends_RTH, w) for w in range(self.max_span_tokens)], dim=-1)
        around = (0, 0, first, num_tokens - stop)
        possible_RLW = possible_spans(is_passage_RL, self.max_span_tokens)
        logits_RLW = functional.pad(logits_RTW, around).masked_fill(~possible_RLW, IMPOSSIBLE)
        return logits_RLW, possible_RLW

    def _of_width(self, starts_RTH: Tensor, ends_RTH: Tensor, w: int) -> Tensor:
        """Logits [R, T] of spans of one width, 0 where they would end beyond. All widths at once fit into no cache."""
        num_without = min(w, starts_RTH.shape[1])
        hidden_RSH = torch.relu(starts_RTH[:, : starts_RTH.shape[1] - num_without] + ends_RTH[:, num_without:])
        return functional.pad(self.score(self.norm(hidden_RSH)).squeeze(-1), (0, num_without))


def possible_spans(is_passage_RL: Tensor, max_span_tokens: int) -> Tensor:
    """Bool [R, L, W]: spans whose both ends are passage tokens (whose tokens are one run, so the middle is too)."""
    padded_RL = functional.pad(is_passage_RL, (0, max_span_tokens - 1))
    return is_passage_RL[:, :, None] & padded_RL.unfold(1, max_span_tokens, 1)


def reader_logits(span_logits_BKLW: Tensor, possible_BKLW: Tensor, retriever_logits_BK: Tensor) -> Tensor:
    """Span logits plus the logit of the passage they stand in; impossible spans stay impossible."""
    logits_BKLW = span_logits_BKLW + retriever_logits_BK[:, :, None, None]
    return logits_BKLW.masked_fill(~possible_BKLW, IMPOSSIBLE)


def reader_loss(logits_BKLW: Tensor, is_gold_BKLW: Tensor) -> Tensor:
    """[B]: -log of the probability mass on all gold spans of all read passages; exactly 0 where there is none."""
    return _missing_mass(logits_BKLW.flatten(1), is_gold_BKLW.flatten(1))


def retriever_loss(logits_BN: Tensor, holds_answer_BN: Tensor) -> Tensor:
    """[B]: the early update, -log of the mass on retrieved passages that hold an answer; exactly 0 where none does."""
    return _missing_mass(logits_BN, holds_answer_BN)


@dataclass(frozen=True, kw_only=True)
class BestSpans:
    """The best spans of each question: which of the K passages, first token, one past the last token."""

    passage_BX: Tensor
    start_BX: Tensor
    stop_BX: Tensor
    logit_BX: Tensor


def best_spans(logits_BKLW: Tensor, *, num_spans: int = 1) -> BestSpans:
    """The spans with the highest logits over all read passages, best first; there is no "no answer".

    All of them, where there are fewer than `num_spans`.
    """
    _, _, num_tokens, num_widths = logits_BKLW.shape
    logits_BY = logits_BKLW.flatten(1)
    logit_BX, place_BX = logits_BY.topk(min(num_spans, logits_BY.shape[1]), dim=1)
    start_BX = place_BX // num_widths % num_tokens
    return BestSpans(
        passage_BX=place_BX // (num_widths * num_tokens),
        start_BX=start_BX,
        stop_BX=start_BX + place_BX % num_widths + 1,
        logit_BX=logit_BX,
    )


def _missing_mass(logits_BX: Tensor, is_right_BX: Tensor) -> Tensor:
    # Where nothing is right, everything is called right: the two sums are then equal, and loss and gradient exactly 0.
    counted_BX = is_right_BX | ~is_right_BX.any(dim=1, keepdim=True)
    right_B = logits_BX.masked_fill(~counted_BX, -torch.inf).logsumexp(dim=1)
    return logits_BX.logsumexp(dim=1) - right_B


def _extent(is_passage_RL: Tensor) -> tuple[int, int]:
    """First and one past the last position that is a passage token in any row; (0, 1) where there is none."""
    places = is_passage_RL.any(dim=0).nonzero()
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)
