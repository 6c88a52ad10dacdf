"""The objectives whole, with real networks: against loops over single sequences, in float32 and in bfloat16.

The marginal's own algebra is test_marginal.py's; what trainers compute together is ranks/test_zero.py's.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from realm_ds.config.base import MarginalForm
from realm_ds.config.schema import ModelConfig
from realm_ds.data.ict import IctExample
from realm_ds.data.masking import MaskedExample
from realm_ds.data.records import Passage
from realm_ds.index.merge import Candidates
from realm_ds.models import objectives
from realm_ds.models.marginal import marginal_likelihood
from realm_ds.models.objectives import ClozeObjective, MarginalObjective, Measures, relevance_of
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.models.towers import TokenBatch
from realm_ds.train.collate import Collator
from tests.support.batches import candidates_with
from tests.support.records import SPECIAL

CLS, SEP, MASK = SPECIAL.cls, SPECIAL.sep, SPECIAL.mask
VOCABULARY = 40
SIZES = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "projection_size": 8}
TEXTS = {7: ([20], [21, 22]), 8: ([], [23]), 9: ([24, 25], [26, 27, 28, 29])}
UIDS_BK = [[8, 7], [7, 9]]
EXAMPLES = [
    MaskedExample(id="a", ids=(CLS, 10, MASK, SEP), mask_positions=(2,), targets=(11,), origin_uid=0),
    MaskedExample(id="b", ids=(CLS, MASK, MASK, 12, SEP), mask_positions=(1, 2), targets=(13, 14), origin_uid=0),
]
NULL_MEASURES = {"retrieval_utility", "ru_doc", "null_share"}


def model(**changes: object) -> RealmModel:
    settings = {"share_towers": False, "dropout": 0.0, **SIZES, **changes}
    return build_model(ModelConfig(**settings), vocab_size=VOCABULARY, max_tokens=32, seed=3)


def unlike(realm: RealmModel) -> RealmModel:
    """Towers and encoder with weights that tell passages apart: those of a fresh BERT hardly do."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in realm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return realm


def candidates() -> Candidates:
    return candidates_with(UIDS_BK, TEXTS)


def collator(*, has_null: bool = True) -> Collator:
    return Collator(
        special=SPECIAL, query_tokens=16, passage_tokens=16, max_masks=3, device=torch.device("cpu"), has_null=has_null
    )


def alone(ids: list[int], second_from: int | None = None) -> TokenBatch:
    """One sequence without padding."""
    ids_NL = torch.tensor([ids])
    types_NL = (torch.arange(len(ids)) >= (len(ids) if second_from is None else second_from)).long()[None]
    return TokenBatch(ids_NL, torch.ones_like(ids_NL), types_NL)


def by_loops(realm: RealmModel, form: MarginalForm, *, temperature: float, has_null: bool) -> Tensor:
    """REALM's loss over single sequences and in probabilities, as the paper writes it (Eq. 1)."""
    texts = {0: ([], []), **TEXTS}
    losses: list[Tensor] = []
    for example, uids in zip(EXAMPLES, UIDS_BK, strict=True):
        scores, readings = [], []
        query_P = realm.query_tower(alone(list(example.ids)))[0]
        for uid in [*([0] if has_null else []), *uids]:
            title, body = texts[uid]
            passage_P = realm.passage_tower(alone([CLS, *title, SEP, *body, SEP], 2 + len(title)))[0]
            scores.append(torch.exp(query_P @ passage_P / temperature))
            log_p_NM, _ = realm.encoder(
                alone([*example.ids, *body, SEP], len(example.ids)),
                torch.tensor([example.mask_positions]),
                torch.tensor([example.targets]),
            )
            readings.append(log_p_NM[0].exp())
        p_z = [score / sum(scores) for score in scores]
        if form == "joint":
            losses.append(-torch.log(sum(p * reading.prod() for p, reading in zip(p_z, readings, strict=True))))
        else:
            losses += list(-torch.log(sum(p * reading for p, reading in zip(p_z, readings, strict=True))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("form", ["joint", "per_token"])
@pytest.mark.parametrize("has_null", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_the_marginal_objective_equals_loops(form: MarginalForm, has_null: bool, temperature: float) -> None:
    """Values and the gradients of all three networks, whatever the options."""
    fast, slow = unlike(model()).eval(), unlike(model()).eval()
    batch = collator(has_null=has_null).marginal(EXAMPLES, candidates())
    measured = MarginalObjective(fast, form=form, temperature=temperature, has_null=has_null)(batch)
    expected = by_loops(slow, form, temperature=temperature, has_null=has_null)
    assert measured.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (NULL_MEASURES & measured.values.keys()) == (NULL_MEASURES if has_null else set())
    measured.loss.backward()
    expected.backward()
    check_gradients(fast, slow)


def check_gradients(fast: RealmModel, slow: RealmModel) -> None:
    moved = 0
    for (name, ours), theirs in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name)
            moved += bool(ours.grad.abs().max() > 1e-4)
    assert moved > 50


def test_temperature_1_changes_no_bit() -> None:
    """Dividing by 1 is exact, so that runs made before there was a temperature go on as they were."""
    realm, batch = unlike(model()).eval(), collator().marginal(EXAMPLES, candidates())
    objective = MarginalObjective(realm, form="joint", temperature=1.0)
    query_BP = realm.query_tower(batch.queries)
    passage_UP = torch.cat([realm.passage_tower(bucket) for bucket in batch.passages])
    relevance_BC = torch.einsum("bp,bcp->bc", query_BP, passage_UP[batch.passage_rows_BC])
    log_p_BCM, _ = objective._read(batch)
    expected = marginal_likelihood(relevance_BC, log_p_BCM, batch.masks_BM, "joint")
    assert torch.equal(objective(batch).loss, expected.loss)


def test_low_precision_does_not_choose_for_the_retriever() -> None:
    """Scores near 100, as those of 128 dimensions are, that differ by less than a bfloat16 there (0.5)."""
    query_BP = torch.ones(1, 128, dtype=torch.bfloat16)
    passage_BCP = torch.full((1, 2, 128), 0.75, dtype=torch.bfloat16)
    passage_BCP[0, 1, 0] = 1.0
    assert (query_BP @ passage_BCP[0].T).diff().item() == 0.0
    relevance_BC = relevance_of(query_BP, passage_BCP)
    assert relevance_BC.dtype == torch.float32
    assert relevance_BC.tolist() == [[96.0, 96.25]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(relevance_of(query_BP.float(), passage_BCP.float()), relevance_BC)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_whole_forward_in_bfloat16(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in bfloat16, or autocast: scores, log-likelihoods and the loss are float32 all the same, and near it."""
    exact = unlike(model()).eval()
    rounded = exact if autocast else copy.deepcopy(exact).bfloat16()
    batch = collator().marginal(EXAMPLES, candidates())
    seen: list[torch.dtype] = []
    whole = objectives.marginal_likelihood

    def watched(logits_BC: Tensor, log_p_BCM: Tensor, masks_BM: Tensor, *rest: object, **options: object) -> object:
        seen.extend(part.dtype for part in (logits_BC, log_p_BCM, masks_BM))
        return whole(logits_BC, log_p_BCM, masks_BM, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(objectives, "marginal_likelihood", watched)
    expected = MarginalObjective(exact, form="joint")(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = MarginalObjective(rounded, form="joint")(batch._replace(masks_BM=batch.masks_BM.bfloat16()))
    assert set(seen) == {torch.float32}
    assert found.loss.dtype == torch.float32
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=0.05)
    found.loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in rounded.parameters())


def pairs(count: int) -> list[IctExample]:
    return [
        IctExample(
            uid=number + 1, article="", query_ids=(10 + number, 20), title_ids=(30 + number,),
            body_ids=(10 + number, 21, 22)[: 1 + number % 3], is_masked=False,
        )
        for number in range(count)
    ]  # fmt: skip


def cloze(objective: Callable[..., ClozeObjective], realm: RealmModel) -> Measures:
    measured = objective(realm, gather=lambda block: (block, 0))(collator().cloze(pairs(5), []))
    measured.loss.backward()
    return measured


def test_inverse_cloze_in_both_directions_equals_loops() -> None:
    fast, slow = unlike(model()).eval(), unlike(model()).eval()
    measured = cloze(lambda *args, **options: ClozeObjective(*args, symmetric=True, **options), fast)
    queries = [slow.query_tower(alone([CLS, *pair.query_ids, SEP]))[0] for pair in pairs(5)]
    passages = [slow.passage_tower(alone([CLS, *p.title_ids, SEP, *p.body_ids, SEP], 3))[0] for p in pairs(5)]
    losses, right = [], {"in_batch_accuracy": 0, "in_batch_accuracy_of_sentences": 0}
    for own, wanted, name in ((queries, passages, "in_batch_accuracy"),
                              (passages, queries, "in_batch_accuracy_of_sentences")):  # fmt: skip
        for number, vector_P in enumerate(own):
            scores = [vector_P @ other_P for other_P in wanted]
            losses.append(torch.logsumexp(torch.stack(scores), dim=0) - scores[number])
            right[name] += max(scores) == scores[number]
    expected = sum(losses) / len(losses)
    expected.backward()
    assert measured.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert {name: measured.values[name][0].item() for name in right} == {
        name: pytest.approx(count / 5) for name, count in right.items()
    }
    check_gradients(fast, slow)


def test_one_direction_is_what_it_was() -> None:
    """Bit for bit: the passages of the batch as columns of one product, nothing of the other direction."""
    realm = unlike(model()).eval()
    measured = cloze(ClozeObjective, realm)
    batch = collator().cloze(pairs(5), [])
    scores_BA = realm.query_tower(batch.queries) @ realm.passage_tower(batch.passages).T
    assert torch.equal(measured.loss, torch.nn.functional.cross_entropy(scores_BA, torch.arange(5)))
    assert "in_batch_accuracy_of_sentences" not in measured.values


def test_the_warm_up_comes_on_top_of_both_directions() -> None:
    passage = Passage(
        uid=1, title="", text="", article="", title_ids=(), body_ids=(10, 11, 12), sentences=((0, 3),)
    )  # fmt: skip
    batch = collator().cloze(pairs(3), [(EXAMPLES[0], passage)])
    realm = unlike(model()).eval()
    values = ClozeObjective(realm, gather=lambda block: (block, 0), symmetric=True)(batch).values
    assert values["loss"][0].item() == pytest.approx(values["cloze_loss"][0].item() + values["masked_loss"][0].item())
