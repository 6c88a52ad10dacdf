"""Questions answered by a masked word: what is asked and right, what is learnt and told; against double loops."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from realm_ds.data.records import Question
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.eval.answerer import RealmForQA
from realm_ds.eval.corpus import tensors
from realm_ds.eval.exported import AnswerSettings, write_qa_export
from realm_ds.eval.pairs import joint_tokens
from realm_ds.eval.qa import answer_questions, baselines, by_tower
from realm_ds.eval.reading import read_answers
from realm_ds.eval.scores import summarise
from realm_ds.launch.judging import judge_answers
from realm_ds.models.qa import QaModel, QaObjective
from realm_ds.models.readers import RightWords
from realm_ds.train.export import export_run
from tests.support.qa_in_process import SIZES, Tiny, sequences_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Its first question has two answers of one wordpiece, its second one of its own [MASK]."""
    tiny = Tiny(tmp_path_factory.mktemp("tiny"))
    first, second, *others = tiny.questions["train"]
    statement = replace(second, question="the river of arlon is called [MASK].")
    tiny.questions["train"] = [
        replace(first, answers=(*first.answers, "The River", "the river of arlon")),
        statement,
        *others,
    ]
    return tiny


@pytest.fixture(scope="module")
def export(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "export"
    settings = AnswerSettings(
        sizes=SIZES, null_passage=False, temperature=1.0, tokenizer_fingerprint=tiny.tokenizer.fingerprint
    )
    write_qa_export(
        folder, tiny.model(names_words=True).eval(), shards=tiny.shards, vectors=[tiny.corpus.vectors_NP],
        tokenizer_folder=tiny.folder / "tokenizer", settings=settings,
    )  # fmt: skip
    return folder


def test_questions_are_read_with_a_mask_and_right_are_their_words(tiny: Tiny) -> None:
    finder, numbers = tiny.finder(answer_by="masked_word"), (1, 0, 7)
    batch = tiny.batch(finder, numbers)
    special = tiny.tokenizer.special
    assert special.mask not in batch.questions.ids_NL[1]  # the tower embeds the question alone, as it is
    found = finder(batch, torch.from_numpy(np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)))
    sequences, right = sequences_of(found), found.right
    assert isinstance(right, RightWords)
    for row, number in enumerate(numbers):
        question = finder.question_ids[number]
        asked = question if number == 1 else [*question, special.mask]
        for read in range(3):
            sequence = sequences[3 * row + read]
            assert sequence[: len(asked) + 2] == [special.cls, *asked, special.sep]
            assert sequence.count(special.mask) == 1
            assert sequence[right.mask_places_B[row]] == special.mask
        answers = set(right.answers_BA[row][right.is_answer_BA[row]].tolist())
        words = tiny.questions["train"][number].answers[:1] + (("river",) if number == 0 else ())
        assert answers == {piece for (piece,) in tiny.tokenizer.encode_all(words)}


@pytest.mark.parametrize("refreshes", [False, True])
def test_the_loss_is_that_of_a_loop_over_passages_and_words(tiny: Tiny, refreshes: bool) -> None:
    """-log of the sum over answers y and passages z of p(z|q) p(y|z, q), and its gradient, in every parameter."""
    finder = tiny.finder(answer_by="masked_word", read_one_with_answer=True, retrieve=72, refresh_passages=refreshes)
    model = tiny.model(names_words=True, trains_passages=refreshes).eval()
    numbers = (0, 1, 11)
    batch = tiny.batch(finder, numbers)
    measured = QaObjective(model, find=finder)(batch)
    query_BP = model.query_tower(batch.questions)
    found = finder(batch, query_BP.detach())
    anew = {}
    for part in found.parts if refreshes else ():
        anew |= dict(zip(part.rows_R.tolist(), model.passage_tower(part.passages), strict=True))
    sequences, losses, is_right, holds = sequences_of(found), [], [], []
    for row, number in enumerate(numbers):
        vectors_NP = list(found.vectors_BNP[row])
        for k, place in enumerate(found.read_BK[row].tolist() if refreshes else ()):
            vectors_NP[place] = anew[3 * row + k]
        scores_N = torch.stack(vectors_NP) @ query_BP[row]
        p_z_K = scores_N[found.read_BK[row]].softmax(dim=0)
        p_V = torch.zeros(tiny.tokenizer.vocab_size)
        for k in range(3):
            ids = torch.tensor([sequences[3 * row + k]])
            first_body = sequences[3 * row + k].index(tiny.tokenizer.special.sep) + 1
            types = (torch.arange(ids.shape[1]) >= first_body).long()[None]
            logits_1LV = model.reader.encoder.mlm(input_ids=ids, token_type_ids=types).logits
            place = sequences[3 * row + k].index(tiny.tokenizer.special.mask)
            p_V = p_V + p_z_K[k] * logits_1LV[0, place].softmax(dim=0)
        pieces = tiny.tokenizer.encode_all(
            [*tiny.questions["train"][number].answers[:1], *(["river"] if number == 0 else [])]
        )
        answers = [piece for (piece,) in pieces]
        held_N = found.holds_answer_BN[row]
        losses.append(-sum(p_V[answer] for answer in answers).log())
        losses[-1] = losses[-1] + torch.logsumexp(scores_N, 0) - torch.logsumexp(scores_N[held_N], 0)
        is_right.append(float(p_V.argmax()) in answers)
        holds.append(bool(held_N[found.read_BK[row]].any()))
    slow = torch.stack(losses).mean()
    assert measured.loss.item() == pytest.approx(slow.item(), rel=1e-5)
    parameters = dict(model.named_parameters())
    fast_grads = torch.autograd.grad(measured.loss, parameters.values())
    for name, fast, other in zip(parameters, fast_grads, torch.autograd.grad(slow, parameters.values()), strict=True):
        torch.testing.assert_close(fast, other, rtol=1e-3, atol=1e-5, msg=name)
    assert measured.values["word_accuracy"] == (pytest.approx(np.mean(is_right)), 3.0)
    assert measured.values["reads_answer"] == (pytest.approx(np.mean(holds)), 3.0)


def test_words_are_named_as_in_a_loop_over_passages_whatever_the_batch(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realm_ds.eval.reading.PAIRS_AT_ONCE", 7)
    model, tokenizer = tiny.model(names_words=True).eval(), tiny.tokenizer
    ids = tokenizer.encode_all([question.question for question in tiny.questions["dev"]])
    places_BK = np.array([np.random.default_rng(number).permutation(72)[:3] for number in range(len(ids))])
    scores_BK = np.random.default_rng(4).standard_normal((len(ids), 3)).astype(np.float32)
    together = read_answers(
        model.reader, ids, places_BK, scores_BK, dict(enumerate(tiny.passages)), tokenizer=tokenizer, sizes=SIZES,
        most=4,
    )  # fmt: skip
    pieces = tokenizer.tokens(range(tokenizer.vocab_size))
    for row, found in enumerate(together):
        p_z_K = torch.from_numpy(scores_BK[row]).softmax(dim=0)
        through_KV = []
        for p_z, place in zip(p_z_K, places_BK[row].tolist(), strict=True):
            asked = [*ids[row], tokenizer.special.mask]
            tokens, _ = joint_tokens([(asked, tiny.passages[place].body_ids)], special=tokenizer.special, sizes=SIZES)
            logits_1LV = model.reader.encoder.mlm(**tensors(tokens, CPU).inputs(types=True)).logits
            through_KV.append(p_z * logits_1LV[0, len(asked)].softmax(dim=0))
        p_V = torch.stack(through_KV).sum(dim=0)
        words = [v for v in p_V.argsort(descending=True).tolist() if pieces[v][:2] != "##" and pieces[v][:1] != "["][:4]
        assert [answer.text for answer in found] == [pieces[v] for v in words]
        for answer, v in zip(found, words, strict=True):
            assert answer.p == pytest.approx(p_V[v].item(), rel=1e-3)
            assert answer.place == places_BK[row][int(torch.stack(through_KV)[:, v].argmax())]
            text = tiny.passages[answer.place].text
            assert (answer.text in text.split(" ")) <= (answer.characters is not None)
            assert answer.characters is None or text[slice(*answer.characters)] == answer.text


def test_questions_that_no_word_answers_are_wrong_and_the_others_have_scores_of_their_own(tiny: Tiny) -> None:
    model, asked = tiny.model(names_words=True), tiny.questions["test"]
    before = answer_questions(model, asked, by_tower(tiny.corpus), **tiny.tools())
    answerable = [replace(question, answers=(row["prediction"],)) for question, row in zip(asked, before, strict=True)]
    others = [Question(id="no", question="what is it?", answers=("the river of ghent",))] * len(asked)
    rows = answer_questions(model, [*answerable, *others], by_tower(tiny.corpus), **tiny.tools())
    assert [(row["is_answerable"], row["is_exact"]) for row in rows] == [(True, True)] * 14 + [(False, False)] * 14
    scores = summarise(rows)
    assert (scores["em"], scores["em_answerable"], scores["f1_answerable"]) == (0.5, 1.0, 1.0)
    assert (scores["answerable"], scores["questions"]) == (0.5, 28)
    assert scores["intervals"]["em_answerable"] == [1.0, 1.0]
    assert "em_answerable" not in summarise(rows[14:])
    blind = baselines(model, asked, **tiny.tools(), majority={"": "nothing"}, seed=5)
    assert all(len(tiny.tokenizer.encode(row["prediction_no_retrieval"])) == 1 for row in blind)
    of_spans = answer_questions(tiny.model(), asked, by_tower(tiny.corpus), **tiny.tools())
    assert "is_answerable" not in of_spans[0]


def test_a_saved_model_is_a_masked_language_model_and_answers_as_before(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.model(names_words=True).eval()
    model.save(tmp_path)
    loaded = QaModel.load(tmp_path).eval()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "reader").state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in model.reader.encoder.mlm.state_dict().items())
    spans = tiny.model()
    spans.save(tmp_path / "spans")
    (tmp_path / "spans" / "reader" / "span_scorer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="reader has neither span_scorer.safetensors nor a masked-language model"):
        QaModel.load(tmp_path / "spans")


def test_weights_that_layers_share_fill_a_model_whether_told_once_or_by_each(tiny: Tiny) -> None:
    """The head's large matrix is the table of wordpieces. What is gathered layer by layer tells it twice."""
    model, *others = (tiny.model(names_words=True) for _ in range(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    once, by_each = (dict(model.named_parameters(remove_duplicate=removes)) for removes in (True, False))
    assert len(once) < len(by_each)
    for other, weights in zip(others, (once, by_each), strict=True):
        filled = other.with_weights(weights).state_dict()
        assert all(torch.equal(filled[name], value) for name, value in model.state_dict().items())
    with pytest.raises(AssertionError, match="the weights of another model"):
        model.with_weights({**once, "reader.scorer.norm.weight": torch.ones(1)})


def test_an_export_tells_words_and_where_they_stand(tiny: Tiny, export: Path) -> None:
    questions = [question.question for question in tiny.questions["test"]]
    answered = RealmForQA.from_pretrained(export).answer([*questions, "the river of arlon is called [MASK]."], top=3)
    rows = answer_questions(QaModel.load(export), tiny.questions["test"], by_tower(tiny.corpus), **tiny.tools())
    assert [one.answers[0].text for one in answered[:-1]] == [row["prediction"] for row in rows]
    for one in answered:
        shares = [answer.p for answer in one.answers]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1
        assert len({answer.text for answer in one.answers}) == 3
        for answer in one.answers:
            assert answer.span is None or answer.passage.text[slice(*answer.span)] == answer.text
    judged = judge_answers(export, tiny.folder / "qa" / "test.jsonl", with_bm25=False, rows_file=None)
    assert judged == summarise(rows)
    assert judged["answerable"] == 1.0
    json.dumps(judged)


def test_transformers_has_no_class_for_it(export: Path) -> None:
    message = "answers by a masked word .* RealmForOpenQA answer by spans alone: take its own export"
    with pytest.raises(ConfigError, match=message):
        export_run(export.parent, layout="hf-realm")
    assert not (export.parent / "export-hf-realm").exists()
