"""The span scorer and its losses against double loops in float64, values and gradients."""

import math

import pytest
import torch

from realm_ds.models.reader import (
    IMPOSSIBLE,
    SpanScorer,
    best_spans,
    possible_spans,
    reader_logits,
    reader_loss,
    retriever_loss,
)

R, L, E, H, W = 3, 11, 6, 5, 4


@pytest.fixture
def scorer() -> SpanScorer:
    torch.manual_seed(0)
    scorer = SpanScorer(E, H, W).double()
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter)
    return scorer


def passage_tokens() -> torch.Tensor:
    is_passage_RL = torch.zeros(R, L, dtype=torch.bool)
    is_passage_RL[0, 4:9] = True
    is_passage_RL[1, 3:10] = True  # row 2 reads a null passage: no token at all
    return is_passage_RL


def brute_force_score(scorer: SpanScorer, state_LE: torch.Tensor, start: int, width: int) -> torch.Tensor:
    start_weight_HE, end_weight_HE = scorer.ends.weight[:H], scorer.ends.weight[H:]
    start_H = start_weight_HE @ state_LE[start] + scorer.ends.bias[:H]
    end_H = end_weight_HE @ state_LE[start + width] + scorer.ends.bias[H:]
    hidden_H = (start_H + end_H).clamp(min=0)
    centred_H = hidden_H - hidden_H.mean()
    normed_H = centred_H / (centred_H.pow(2).mean() + 1e-3).sqrt() * scorer.norm.weight + scorer.norm.bias
    return normed_H @ scorer.score.weight[0] + scorer.score.bias[0]


def test_scores_and_gradients_against_a_double_loop(scorer: SpanScorer) -> None:
    states_RLE = torch.randn(R, L, E, dtype=torch.float64, requires_grad=True)
    is_passage_RL = passage_tokens()
    logits_RLW, possible_RLW = scorer(states_RLE, is_passage_RL)
    weights_RLW = torch.randn(R, L, W, dtype=torch.float64)
    total, slow_total = (logits_RLW * weights_RLW)[possible_RLW].sum(), torch.zeros((), dtype=torch.float64)
    for row in range(R):
        for start in range(L):
            for width in range(W):
                inside = start + width < L and bool(is_passage_RL[row, start] and is_passage_RL[row, start + width])
                assert bool(possible_RLW[row, start, width]) == inside
                if not inside:
                    assert logits_RLW[row, start, width] == IMPOSSIBLE
                    continue
                slow = brute_force_score(scorer, states_RLE[row], start, width)
                assert logits_RLW[row, start, width].item() == pytest.approx(slow.item(), abs=1e-12)
                slow_total = slow_total + weights_RLW[row, start, width] * slow
    inputs = (states_RLE, *scorer.parameters())
    for fast, slow in zip(torch.autograd.grad(total, inputs), torch.autograd.grad(slow_total, inputs), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)


def test_a_batch_of_null_passages_has_no_possible_span(scorer: SpanScorer) -> None:
    logits_RLW, possible_RLW = scorer(torch.randn(R, L, E, dtype=torch.float64), torch.zeros(R, L, dtype=torch.bool))
    assert logits_RLW.shape == (R, L, W)
    assert not possible_RLW.any()
    assert (logits_RLW == IMPOSSIBLE).all()


def test_losses_and_gradients_against_a_double_loop() -> None:
    torch.manual_seed(1)
    B, K, N = 4, 2, 7
    possible_BKLW = possible_spans(torch.rand(B * K, L) < 0.7, W).unflatten(0, (B, K))
    span_logits_BKLW = torch.randn(B, K, L, W, dtype=torch.float64, requires_grad=True)
    retriever_BN = torch.randn(B, N, dtype=torch.float64, requires_grad=True)
    is_gold_BKLW = possible_BKLW & (torch.rand(B, K, L, W) < 0.1)
    is_gold_BKLW[3] = False
    holds_BN = torch.rand(B, N) < 0.3
    holds_BN[0] = True
    holds_BN[1] = False
    logits_BKLW = reader_logits(span_logits_BKLW, possible_BKLW, retriever_BN[:, :K])
    fast_B = reader_loss(logits_BKLW, is_gold_BKLW) + retriever_loss(retriever_BN, holds_BN)
    slow_B = []
    for b in range(B):
        every, right = [], []
        for k in range(K):
            for start in range(L):
                for width in range(W):
                    if possible_BKLW[b, k, start, width]:
                        mass = torch.exp(span_logits_BKLW[b, k, start, width] + retriever_BN[b, k])
                        every.append(mass)
                        right += [mass] if is_gold_BKLW[b, k, start, width] else []
        loss = torch.log(sum(every)) - torch.log(sum(right)) if right else torch.zeros((), dtype=torch.float64)
        held = [torch.exp(retriever_BN[b, n]) for n in range(N) if holds_BN[b, n]]
        if held:
            loss = loss + torch.log(torch.exp(retriever_BN[b]).sum()) - torch.log(sum(held))
        slow_B.append(loss)
    torch.testing.assert_close(fast_B, torch.stack(slow_B), rtol=1e-11, atol=1e-11)
    inputs = (span_logits_BKLW, retriever_BN)
    fast_grads = torch.autograd.grad(fast_B.sum(), inputs)
    for fast, slow in zip(fast_grads, torch.autograd.grad(torch.stack(slow_B).sum(), inputs), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)


def test_no_right_answer_is_exactly_no_loss_and_no_gradient() -> None:
    logits_BX = torch.tensor([[3.0, -1.0, IMPOSSIBLE]], requires_grad=True)
    loss_B = retriever_loss(logits_BX, torch.zeros(1, 3, dtype=torch.bool))
    loss_B.sum().backward()
    assert loss_B.item() == 0.0
    assert logits_BX.grad is not None
    assert (logits_BX.grad == 0).all()
    nothing = torch.full((1, 2, 3, 2), IMPOSSIBLE, requires_grad=True)
    reader_loss(nothing, torch.zeros(1, 2, 3, 2, dtype=torch.bool)).sum().backward()
    assert nothing.grad is not None
    assert torch.isfinite(nothing.grad).all()


def test_gradient_to_retriever_logits_is_posterior_minus_prior() -> None:
    torch.manual_seed(2)
    logits_BN = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    holds_BN = torch.tensor([[True, False, True, False, False], [False, True, False, False, False]])
    retriever_loss(logits_BN, holds_BN).sum().backward()
    prior_BN = logits_BN.detach().softmax(-1)
    posterior_BN = prior_BN * holds_BN / (prior_BN * holds_BN).sum(-1, keepdim=True)
    torch.testing.assert_close(logits_BN.grad, prior_BN - posterior_BN)
    assert logits_BN.grad is not None
    assert math.isclose(logits_BN.grad.sum().item(), 0.0, abs_tol=1e-12)


def test_best_spans_against_a_loop() -> None:
    torch.manual_seed(3)
    logits_BKLW = torch.randn(5, 3, L, W)
    best = best_spans(logits_BKLW, num_spans=7)
    for b in range(5):
        every = sorted(
            ((logits_BKLW[b, k, s, w].item(), k, s, w) for k in range(3) for s in range(L) for w in range(W)),
            reverse=True,
        )
        for x, (logit, passage, start, width) in enumerate(every[:7]):
            assert (best.passage_BX[b, x], best.start_BX[b, x]) == (passage, start)
            assert best.stop_BX[b, x] == start + width + 1
            assert best.logit_BX[b, x].item() == logit
    assert best_spans(logits_BKLW, num_spans=1000).logit_BX.shape == (5, 3 * L * W)
