"""REALM's marginal likelihood over candidates, in log space. Pure functions of scores: no networks here.

Shapes: B batch, C candidates (the null passage first, where there is one), M masks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from realm_ds.config.base import MarginalForm


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """The loss and what a run logs beside it; all but `loss` are per example, and all but the first two detached."""

    loss: Tensor
    log_likelihood_B: Tensor
    """log p(y|x), the sum over masked tokens."""
    p_z_BC: Tensor
    """p(z|x) of each candidate."""
    ru_marginal_B: Tensor | None
    """Retrieval utility of the marginal: log p(y|x) - log p(y|null, x), a mean over masked tokens (Google's code)."""
    ru_doc_B: Tensor | None
    """Retrieval utility of the best retrieved passage: max over z of log p(y|z, x) - log p(y|null, x) (App. D)."""
    null_share_B: Tensor | None
    """p(null|x); this and the utilities are None without a null passage, which they are measured against."""
    entropy_B: Tensor
    """Entropy of p(z|x) in nats; log C when the retriever is undecided."""


def marginal_likelihood(
    relevance_BC: Tensor, token_log_p_BCM: Tensor, masks_BM: Tensor, form: MarginalForm, *, has_null: bool = True
) -> Marginal:
    """-log of the sum over z of p(z|x) p(y|z, x) (REALM section 3, Eq. 1), averaged.

    `joint`: p(y|z, x) is the product over an example's masked tokens; the loss is the mean over examples.
    `per_token`: the sum over z is taken for each masked token alone, as Google's released code does; the loss is the
    mean over masked tokens. Both means are over one trainer's micro-batch; DeepSpeed averages those over trainers.

    relevance_BC: the logits of p(z|x), inner products of query and candidate vectors. token_log_p_BCM: log p(y_m|z, x)
    of each masked token. masks_BM: 1 where there is a target, 0 in padding. `has_null`: candidate 0 is the null
    passage, and retrieval utility is measured against it.
    """
    log_p_z_BC = torch.log_softmax(relevance_BC, dim=-1)
    token_log_p_BCM = token_log_p_BCM * masks_BM.unsqueeze(1)
    passage_log_p_BC = token_log_p_BCM.sum(dim=-1)
    num_masks_B = masks_BM.sum(dim=-1).clamp(min=1)
    if form == "joint":
        log_likelihood_B = torch.logsumexp(log_p_z_BC + passage_log_p_BC, dim=-1)
        loss = -log_likelihood_B.mean()
    else:
        marginal_BM = torch.logsumexp(log_p_z_BC.unsqueeze(-1) + token_log_p_BCM, dim=1) * masks_BM
        log_likelihood_B = marginal_BM.sum(dim=-1)
        loss = -marginal_BM.sum() / masks_BM.sum().clamp(min=1)
    with torch.no_grad():
        p_z_BC = log_p_z_BC.exp()
        ru_marginal_B = ru_doc_B = null_share_B = None
        if has_null:
            null_log_p_B = passage_log_p_BC[:, 0]
            ru_marginal_B = (log_likelihood_B - null_log_p_B) / num_masks_B
            ru_doc_B = (passage_log_p_BC[:, 1:].amax(dim=-1) - null_log_p_B) / num_masks_B
            null_share_B = p_z_BC[:, 0]
        return Marginal(
            loss=loss,
            log_likelihood_B=log_likelihood_B,
            p_z_BC=p_z_BC,
            ru_marginal_B=ru_marginal_B,
            ru_doc_B=ru_doc_B,
            null_share_B=null_share_B,
            entropy_B=-(p_z_BC * log_p_z_BC).sum(dim=-1),
        )
