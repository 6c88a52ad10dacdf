"""What an optimizer step computes: the inverse cloze task, and REALM's marginal likelihood. Batches come from train/.

Shapes: B queries, C candidates (the null passage first, where there is one), U distinct passages, N joint sequences,
M masks, L tokens, P embedding, A passages (or sentences) of all trainers.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from realm_ds.config.base import MarginalForm
from realm_ds.models.marginal import marginal_likelihood
from realm_ds.models.realm import RealmModel
from realm_ds.models.towers import TokenBatch


class Measures(NamedTuple):
    """What a forward pass reports: the loss to differentiate, and (mean, weight) pairs for the meters, detached."""

    loss: Tensor
    values: dict[str, tuple[Tensor, float]]


class MaskedBatch(NamedTuple):
    """Joint sequences of x and a passage, with what to predict where; rows of all buckets make up the batch."""

    tokens: TokenBatch
    rows_N: Tensor
    """The place of each sequence in the batch, before it was sorted by length."""
    positions_NM: Tensor
    targets_NM: Tensor


class MarginalBatch(NamedTuple):
    """B masked queries with their C candidates. Every distinct passage is embedded once."""

    queries: TokenBatch
    passages: tuple[TokenBatch, ...]
    """U distinct passages, the null passage among them if there is one, in buckets of like length."""
    passage_rows_BC: Tensor
    """The place of each candidate among them."""
    joint: tuple[MaskedBatch, ...]
    """B x C joint sequences in buckets of like length; as many buckets on every trainer (ZeRO-3 gathers in step)."""
    masks_BM: Tensor
    """float, 1 where there is a target."""


class MarginalObjective(nn.Module):
    """REALM pre-training: retrieve-then-predict, differentiable through both towers and the encoder (section 3.2).

    p(z|x) is the softmax of relevance over `temperature`. Without a null passage nothing is measured against it.
    """

    def __init__(
        self, model: RealmModel, *, form: MarginalForm, temperature: float = 1.0, has_null: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.form = form
        self.temperature = temperature
        self.has_null = has_null

    def forward(self, batch: MarginalBatch) -> Measures:
        query_BP = self.model.query_tower(batch.queries)
        passage_UP = torch.cat([self.model.passage_tower(bucket) for bucket in batch.passages])
        # Candidates come from an index a few hundred steps old; their scores do not (section 3.3).
        logits_BC = relevance_of(query_BP, passage_UP[batch.passage_rows_BC]) / self.temperature
        log_p_BCM, is_right_BCM = self._read(batch)
        masks_BM = batch.masks_BM.float()
        marginal = marginal_likelihood(logits_BC, log_p_BCM, masks_BM, self.form, has_null=self.has_null)
        num_queries, num_masks = float(len(query_BP)), float(masks_BM.sum())
        with torch.no_grad():
            right_BM = (marginal.p_z_BC.unsqueeze(-1) * is_right_BCM).sum(dim=1) * masks_BM
        per_query = {
            "retrieval_utility": marginal.ru_marginal_B,
            "ru_doc": marginal.ru_doc_B,
            "null_share": marginal.null_share_B,
            "retrieval_entropy": marginal.entropy_B,
        }
        values = {
            "loss": (marginal.loss.detach(), num_queries if self.form == "joint" else num_masks),
            **{name: (value_B.mean(), num_queries) for name, value_B in per_query.items() if value_B is not None},
            "masked_accuracy": (right_BM.sum() / num_masks, num_masks),
        }
        return Measures(marginal.loss, values)

    def _read(self, batch: MarginalBatch) -> tuple[Tensor, Tensor]:
        """log p(y|z, x) of each masked token and whether it is the likeliest, both (B, C, M), from all buckets."""
        (num_queries, num_candidates), num_masks = batch.passage_rows_BC.shape, batch.masks_BM.shape[1]
        read = [self.model.encoder(part.tokens, part.positions_NM, part.targets_NM) for part in batch.joint]
        order_N = torch.argsort(torch.cat([part.rows_N for part in batch.joint]))
        log_p_NM = torch.cat([log_p for log_p, _ in read])[order_N]
        is_right_NM = torch.cat([is_right for _, is_right in read])[order_N]
        shape = (num_queries, num_candidates, num_masks)
        return log_p_NM.view(shape), is_right_NM.view(shape)


def relevance_of(query_BP: Tensor, passage_BCP: Tensor) -> Tensor:
    """f(x, z) = q . d, float32 [B, C], whatever the towers compute in.

    Candidates of one query differ by less than bfloat16 resolves at the size of their scores: eight bits would choose
    among them by chance. Autocast would round here too.
    """
    with torch.autocast(query_BP.device.type, enabled=False):
        return torch.einsum("bp,bcp->bc", query_BP.float(), passage_BCP.float())


class ClozeBatch(NamedTuple):
    """B sentences and the passages they were taken from; optionally masked sentences with their passage at hand."""

    queries: TokenBatch
    passages: TokenBatch
    masked: MaskedBatch | None
    masks_NM: Tensor | None


class ClozeObjective(nn.Module):
    """Inverse cloze: find a sentence's passage among those of the global batch (ORQA section 4).

    `gather` brings vectors of all trainers together, with gradient, and says where this trainer's begin. `symmetric`
    also finds each passage's sentence among all sentences; the loss is then the mean of both directions. With a
    `masked` batch the encoder is warmed up too: it predicts a span with its own passage at hand. The two losses share
    no parameters, so they are simply added.
    """

    def __init__(
        self, model: RealmModel, *, gather: Callable[[Tensor], tuple[Tensor, int]], symmetric: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.gather = gather
        self.symmetric = symmetric

    def forward(self, batch: ClozeBatch) -> Measures:
        query_BP = self.model.query_tower(batch.queries)
        passage_BP = self.model.passage_tower(batch.passages)
        cloze_loss, accuracy = self._find(query_BP, passage_BP)
        num_queries = float(len(query_BP))
        accuracies = {"in_batch_accuracy": (accuracy, num_queries)}
        if self.symmetric:
            sentence_loss, accuracy = self._find(passage_BP, query_BP)
            cloze_loss = (cloze_loss + sentence_loss) / 2
            accuracies["in_batch_accuracy_of_sentences"] = (accuracy, num_queries)
        values = {"cloze_loss": (cloze_loss.detach(), num_queries), **accuracies}
        loss = cloze_loss
        if batch.masked is not None and batch.masks_NM is not None:
            log_p_NM, is_right_NM = self.model.encoder(
                batch.masked.tokens, batch.masked.positions_NM, batch.masked.targets_NM
            )
            num_masks = float(batch.masks_NM.sum())
            masked_loss = -(log_p_NM * batch.masks_NM).sum() / num_masks
            loss = loss + masked_loss
            values["masked_loss"] = (masked_loss.detach(), num_masks)
            values["masked_accuracy"] = ((is_right_NM * batch.masks_NM).sum() / num_masks, num_masks)
        values["loss"] = (loss.detach(), num_queries)
        return Measures(loss, values)

    def _find(self, own_BP: Tensor, wanted_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of finding each one's counterpart among those of all trainers."""
        wanted_AP, first_own = self.gather(wanted_BP)
        with torch.autocast(own_BP.device.type, enabled=False):
            scores_BA = own_BP.float() @ wanted_AP.float().T
        labels_B = first_own + torch.arange(len(own_BP), device=scores_BA.device)
        accuracy = (scores_BA.argmax(dim=-1) == labels_B).float().mean()
        return functional.cross_entropy(scores_BA, labels_B), accuracy
