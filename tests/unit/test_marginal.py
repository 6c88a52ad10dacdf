"""The marginal against a double loop in float64: values and gradients, both forms."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.config.base import MarginalForm
from realm_ds.models.marginal import marginal_likelihood


def brute_force(relevance_BC, log_p_BCM, masks_BM, form):
    """Probabilities, not logs: sums and products exactly as the paper writes them."""
    losses = []
    for relevance_C, log_p_CM, masks_M in zip(relevance_BC, log_p_BCM, masks_BM, strict=True):
        kept = [m for m in range(len(masks_M)) if masks_M[m]]
        p_z = [torch.exp(r) / sum(torch.exp(other) for other in relevance_C) for r in relevance_C]
        if form == "joint":
            p_y = sum(p_z[c] * math.prod([torch.exp(log_p_CM[c, m]) for m in kept]) for c in range(len(p_z)))
            losses.append([-torch.log(p_y)])
        else:
            per_token = [sum(p_z[c] * torch.exp(log_p_CM[c, m]) for c in range(len(p_z))) for m in kept]
            losses.append([-torch.log(p) for p in per_token])
    flat = [loss for row in losses for loss in row]
    return sum(flat) / len(flat)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), form=st.sampled_from(["joint", "per_token"]))
def test_loss_and_gradients_equal_brute_force(seed: int, form: MarginalForm) -> None:
    generator = torch.Generator().manual_seed(seed)
    relevance = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    log_p = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64).sub(2).clamp(max=-0.01)
    masks = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    fast_inputs = [relevance.clone().requires_grad_(), log_p.clone().requires_grad_()]
    slow_inputs = [relevance.clone().requires_grad_(), log_p.clone().requires_grad_()]
    fast = marginal_likelihood(*fast_inputs, masks, form).loss
    slow = brute_force(*slow_inputs, masks, form)
    fast.backward()
    slow.backward()
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    for ours, theirs in zip(fast_inputs, slow_inputs, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_joint_gradient_is_posterior_minus_prior() -> None:
    """Paper, Appendix A: d log p(y|x) / d f(x, z) = p(z|y, x) - p(z|x), which sums to zero over z."""
    relevance = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    log_p = -torch.rand(2, 5, 3, dtype=torch.float64)
    marginal_likelihood(relevance, log_p, torch.ones(2, 3, dtype=torch.float64), "joint").loss.backward()
    prior = torch.softmax(relevance, -1)
    posterior = torch.softmax(torch.log(prior) + log_p.sum(-1), -1)
    torch.testing.assert_close(relevance.grad, (prior - posterior) / 2)
    torch.testing.assert_close(relevance.grad.sum(-1), torch.zeros(2, dtype=torch.float64))


def test_one_mask_makes_both_forms_equal() -> None:
    relevance, log_p, masks = torch.randn(4, 3), -torch.rand(4, 3, 1), torch.ones(4, 1)
    joint = marginal_likelihood(relevance, log_p, masks, "joint").loss
    per_token = marginal_likelihood(relevance, log_p, masks, "per_token").loss
    torch.testing.assert_close(joint, per_token)


def test_measures_of_a_hand_made_case() -> None:
    """Two candidates, undecided retriever; the passage says y for sure, the null gives it 1/4."""
    relevance, log_p = torch.zeros(1, 2), torch.tensor([[[math.log(0.25)], [0.0]]])
    marginal = marginal_likelihood(relevance, log_p, torch.ones(1, 1), "joint")
    assert marginal.loss.item() == pytest.approx(-math.log(0.625))
    assert marginal.null_share_B.item() == pytest.approx(0.5)
    assert marginal.entropy_B.item() == pytest.approx(math.log(2))
    assert marginal.ru_doc_B.item() == pytest.approx(math.log(4))
    assert marginal.ru_marginal_B.item() == pytest.approx(math.log(2.5))


def test_without_a_null_passage_nothing_is_measured_against_it() -> None:
    relevance, log_p, masks = torch.randn(4, 3), -torch.rand(4, 3, 2), torch.ones(4, 2)
    for form in ("joint", "per_token"):
        bare = marginal_likelihood(relevance, log_p, masks, form, has_null=False)
        assert bare.ru_marginal_B is bare.ru_doc_B is bare.null_share_B is None
        whole = marginal_likelihood(relevance, log_p, masks, form)
        assert torch.equal(bare.loss, whole.loss)
        assert torch.equal(bare.entropy_B, whole.entropy_B)


def test_padding_masks_do_not_count() -> None:
    relevance, log_p = torch.randn(2, 3), -torch.rand(2, 3, 2)
    masks = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    for form in ("joint", "per_token"):
        changed = log_p.clone()
        changed[..., 1] = -50.0
        kept = marginal_likelihood(relevance, log_p, masks, form).loss
        torch.testing.assert_close(kept, marginal_likelihood(relevance, changed, masks, form).loss)


def test_per_token_equals_hugging_face() -> None:
    """Against numbers of transformers 4.57.6, written by tests/oracle/make_hf_realm.py."""
    cases = json.loads((Path(__file__).parents[1] / "oracle" / "hf_realm.json").read_text())
    assert len(cases) == 3
    for case in cases:
        relevance = torch.tensor(case["relevance_BC"], requires_grad=True)
        log_p, masks = torch.tensor(case["token_log_p_BCM"]), torch.tensor(case["masks_BM"])
        loss = marginal_likelihood(relevance, log_p, masks, "per_token").loss
        loss.backward()
        assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
        torch.testing.assert_close(relevance.grad, torch.tensor(case["gradient_BC"]), rtol=1e-5, atol=1e-7)
