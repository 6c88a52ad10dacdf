"""Question answering over a tiny corpus: what is found and marked, what is learnt from it, predictions and scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from realm_ds.data.batches import passage_batch
from realm_ds.data.question_files import question_order
from realm_ds.data.records import Question
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.eval.bm25 import Bm25
from realm_ds.eval.corpus import embed_queries, tensors
from realm_ds.eval.pairs import joint_tokens
from realm_ds.eval.qa import (
    answer_questions,
    baselines,
    by_tower,
    by_words,
    majority_answers,
    retrieve_for_questions,
)
from realm_ds.eval.scores import summarise
from realm_ds.eval.spans import read_spans
from realm_ds.index.merge import Candidates
from realm_ds.models.qa import QaModel, QaObjective
from realm_ds.models.readers import body_tokens
from realm_ds.models.towers import Embedder, TokenBatch
from realm_ds.train.find import PassageFinder, choose_read
from realm_ds.train.timing import StepTimer
from tests.support.qa_in_process import SIZES, Tiny, sequences_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def test_what_is_found_is_what_a_search_by_hand_finds(tiny: Tiny) -> None:
    finder, numbers = tiny.finder(), (0, 7, 20)
    query_BP = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32))
    found = finder(tiny.batch(finder, numbers), query_BP)
    sequences = sequences_of(found)
    assert len(found.parts) == 2
    for row, number in enumerate(numbers):
        scores_N = tiny.corpus.vectors_NP @ query_BP[row].numpy()
        places = np.argsort(-scores_N)[:10]
        np.testing.assert_array_equal(found.vectors_BNP[row].numpy(), tiny.corpus.vectors_NP[places])
        (answer,) = tiny.questions["train"][number].answers
        answer_ids = tiny.tokenizer.encode(answer)
        for place, holds in zip(places, found.holds_answer_BN[row].tolist(), strict=True):
            assert holds == (answer in tiny.passages[place].text)
        assert found.read_BK[row].tolist() == [0, 1, 2]
        for read in range(3):
            passage, ids = tiny.passages[places[read]], sequences[3 * row + read]
            special, question = tiny.tokenizer.special, finder.question_ids[number]
            wanted = [special.cls, *question, special.sep, *passage.body_ids, special.sep]
            assert ids == wanted
            gold = {
                (start, len(answer_ids) - 1)
                for start in range(len(question) + 2, len(wanted))
                if ids[start : start + len(answer_ids)] == answer_ids
            }
            assert {tuple(span) for span in torch.nonzero(found.right.is_gold_BKLW[row, read]).tolist()} == gold


def test_a_passage_that_holds_the_answer_is_read_if_asked_for() -> None:
    holds_N = np.array([False, False, False, True, True])
    assert choose_read(holds_N, 3, False).tolist() == [0, 1, 2]
    assert choose_read(holds_N, 3, True).tolist() == [0, 1, 3]
    assert choose_read(holds_N, 4, True).tolist() == [0, 1, 2, 3]
    assert choose_read(~holds_N, 2, True).tolist() == [0, 1]
    assert choose_read(np.zeros(2, dtype=bool), 3, True).tolist() == [0, 1]


def test_the_loss_is_that_of_a_loop_over_passages_and_spans(tiny: Tiny) -> None:
    finder, numbers = tiny.finder(read_one_with_answer=True, retrieve=72), (3, 11)
    model = tiny.model().eval()
    batch = tiny.batch(finder, numbers)
    measured = QaObjective(model, find=finder)(batch)
    query_BP = model.query_tower(batch.questions)
    found = finder(batch, query_BP.detach())
    read = {}
    for part in found.parts:
        logits_RLW, possible_RLW = model.reader(part.joint)
        for place, row in enumerate(part.rows_R.tolist()):
            read[row] = (logits_RLW[place], possible_RLW[place])
    losses = []
    for row in range(2):
        retrieved_N = found.vectors_BNP[row] @ query_BP[row]
        every, right = [], []
        for k in range(3):
            logits_LW, possible_LW = read[3 * row + k]
            for start, width in torch.nonzero(possible_LW).tolist():
                every.append(logits_LW[start, width] + retrieved_N[found.read_BK[row, k]])
                right += [every[-1]] if found.right.is_gold_BKLW[row, k, start, width] else []
        assert right
        reader = torch.logsumexp(torch.stack(every), 0) - torch.logsumexp(torch.stack(right), 0)
        held = retrieved_N[found.holds_answer_BN[row]]
        losses.append(reader + torch.logsumexp(retrieved_N, 0) - torch.logsumexp(held, 0))
    slow = torch.stack(losses).mean()
    assert measured.loss.item() == pytest.approx(slow.item(), rel=1e-5)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fast_grads = torch.autograd.grad(measured.loss, parameters, allow_unused=True)
    slow_grads = torch.autograd.grad(slow, parameters, allow_unused=True)
    for fast, other in zip(fast_grads, slow_grads, strict=True):
        assert (fast is None) == (other is None)
        if fast is not None:
            torch.testing.assert_close(fast, other, rtol=1e-3, atol=1e-5)
    assert measured.values["reads_answer"] == (torch.tensor(1.0), 2.0)


@pytest.mark.parametrize("refreshes", [False, True])
def test_every_parameter_learns(tiny: Tiny, refreshes: bool) -> None:
    finder = tiny.finder(read_one_with_answer=True, retrieve=72, refresh_passages=refreshes)
    model = tiny.model(trains_passages=refreshes)
    QaObjective(model, find=finder)(tiny.batch(finder, (0, 1))).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("share_towers", [False, True])
def test_passages_that_are_read_are_embedded_anew_and_all_others_stand_as_the_index_has_them(
    tiny: Tiny, share_towers: bool
) -> None:
    """As with frozen passages, had the index just these vectors for those that are read; and its gradient."""
    finder, numbers = tiny.finder(read_one_with_answer=True, retrieve=72, refresh_passages=True), (3, 11)
    model = tiny.model(trains_passages=True, share_towers=share_towers).eval()
    batch = tiny.batch(finder, numbers)
    fast = QaObjective(model, find=finder)(batch).loss
    found = finder(batch, model.query_tower(batch.questions).detach())
    places_BN = tiny.corpus.search(model.query_tower(batch.questions).detach().numpy(), num_hits=72).places_BK
    vectors_BNP = [list(vectors_NP) for vectors_NP in found.vectors_BNP]
    tower = model.passage_tower
    assert tower is not None
    for row, reads in enumerate(found.read_BK.tolist()):
        for place in reads:
            passage = tiny.passages[places_BN[row, place]]
            tokens = passage_batch(
                [(passage.title_ids, passage.body_ids)], special=tiny.tokenizer.special, max_tokens=32
            )
            vectors_BNP[row][place] = tower(tensors(tokens, torch.device("cpu")))[0]
    as_read = found._replace(vectors_BNP=torch.stack([torch.stack(vectors_NP) for vectors_NP in vectors_BNP]))
    frozen = QaModel(model.query_tower, model.reader).eval()
    slow = QaObjective(frozen, find=lambda batch, query_BP: as_read)(batch).loss
    assert fast.item() == pytest.approx(slow.item(), rel=1e-5)
    parameters = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad(fast, parameters, allow_unused=True),
        torch.autograd.grad(slow, parameters, allow_unused=True), strict=True,
    ):  # fmt: skip
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("share_towers", [False, True])
def test_a_model_is_filled_by_the_names_of_another_and_saves_its_towers(
    tiny: Tiny, tmp_path: Path, share_towers: bool
) -> None:
    model, other = (tiny.model(trains_passages=True, share_towers=share_towers) for _ in range(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert (("passage_tower.dense.bias") in weights) != share_towers
    assert other.with_weights(weights) is other
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    other.save(tmp_path)
    passage_tower = Embedder.load(tmp_path / "passage_tower").state_dict()
    assert all(torch.equal(passage_tower[name], value) for name, value in model.passage_tower.state_dict().items())
    assert QaModel.load(tmp_path).passage_tower is None  # nobody needs it to answer
    tiny.model(share_towers=share_towers).save(tmp_path / "frozen")
    assert not (tmp_path / "frozen" / "passage_tower").exists()


def test_body_tokens_are_those_between_the_separators() -> None:
    types_NL = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0]])
    nothing = torch.zeros_like(types_NL)
    is_body = body_tokens(TokenBatch(nothing, nothing, types_NL))
    assert is_body.nonzero().tolist() == [[0, 3], [0, 4]]


def test_a_search_within_the_forward_pass_has_a_phase_of_its_own(tiny: Tiny) -> None:
    now = 0.0

    def retrieve(queries_BP: np.ndarray, num_hits: int) -> Candidates:
        nonlocal now
        now += 3.0
        return tiny.retrieve(queries_BP, num_hits)

    timer = StepTimer(clock=lambda: now)
    finder = PassageFinder(
        tiny.questions["train"], retrieve, tokenizer=tiny.tokenizer, settings=tiny.settings, sizes=SIZES, timer=timer
    )
    with timer.phase("forward"):
        finder(tiny.batch(finder, (0, 7)), torch.zeros(2, 16))
    times = timer.drain(1)
    assert (times["queries_ms"], times["forward_ms"]) == (3000, 0)


def test_a_question_may_ask_for_masked_words(tiny: Tiny) -> None:
    questions = [replace(tiny.questions["train"][0], question="the river of [MASK] [MASK].")]
    finder = PassageFinder(
        questions, tiny.retrieve, tokenizer=tiny.tokenizer, settings=tiny.settings, sizes=SIZES, timer=StepTimer()
    )
    assert finder.question_ids[0].count(tiny.tokenizer.special.mask) == 2


def test_the_spans_read_are_those_of_a_loop_over_all_of_them_whatever_the_batch(tiny: Tiny) -> None:
    model = tiny.model().eval()
    ids = tiny.tokenizer.encode_all([question.question for question in tiny.questions["dev"]])
    places_BK = np.array([np.random.default_rng(number).permutation(72)[:3] for number in range(len(ids))])
    scores_BK = np.random.default_rng(4).standard_normal((len(ids), 3)).astype(np.float32)
    tools = {"special": tiny.tokenizer.special, "sizes": SIZES, "num_spans": 5}
    together = read_spans(model.reader, ids, places_BK, scores_BK, tiny.corpus.bodies, **tools)
    for row, spans in enumerate(together):
        every = {}
        for place, score in zip(places_BK[row].tolist(), scores_BK[row].tolist(), strict=True):
            tokens, (first,) = joint_tokens(
                [(ids[row], tiny.passages[place].body_ids)], special=tiny.tokenizer.special, sizes=SIZES
            )
            logits_RLW, possible_RLW = model.reader(tensors(tokens, torch.device("cpu")))
            for _, start, width in possible_RLW.nonzero().tolist():
                span = (place, start - int(first), start - int(first) + width + 1)
                every[span] = logits_RLW[0, start, width].item() + score
        total = np.logaddexp.reduce(list(every.values()))
        found = {(span.place, span.start, span.stop): span.log_p for span in spans}
        assert len(found) == 15
        assert found == pytest.approx({span: every[span] - total for span in found}, abs=1e-4)
        assert [span.log_p for span in spans] == sorted(found.values(), reverse=True)
        assert spans[0].log_p == pytest.approx(max(every.values()) - total, abs=1e-4)


def test_read_in_16_bits_spans_are_found_alike_and_scored_in_full(tiny: Tiny) -> None:
    ids = tiny.tokenizer.encode_all([question.question for question in tiny.questions["dev"]])
    places_BK = np.array([np.random.default_rng(number).permutation(72)[:3] for number in range(len(ids))])
    scores_BK = np.zeros(places_BK.shape, dtype=np.float32)
    tools = {"special": tiny.tokenizer.special, "sizes": SIZES, "num_spans": 1_000}
    in_full, rounded = (
        read_spans(
            tiny.model().answering("cpu", dtype=dtype).reader, ids, places_BK, scores_BK, tiny.corpus.bodies, **tools
        )
        for dtype in ("fp32", "bf16")
    )
    for full, short in zip(in_full, rounded, strict=True):
        log_p, log_p_short = ({(s.place, s.start, s.stop): s.log_p for s in spans} for spans in (full, short))
        assert log_p_short == pytest.approx(log_p, abs=0.1)
        assert log_p_short != log_p
        assert sum(np.exp(list(log_p_short.values()))) == pytest.approx(1, abs=1e-5)
    model = tiny.model().answering("cpu", dtype="bf16")
    assert {weight.dtype for weight in model.reader.encoder.parameters()} == {torch.bfloat16}
    assert {weight.dtype for part in (model.query_tower, model.reader.scorer) for weight in part.parameters()} == {
        torch.float32
    }  # fmt: skip


def test_answered_questions_say_what_was_found_and_score_themselves(tiny: Tiny) -> None:
    model, questions = tiny.model(), tiny.questions["test"]
    rows = answer_questions(model, questions, by_tower(tiny.corpus), **tiny.tools())
    assert rows == answer_questions(model, questions, by_tower(tiny.corpus), **tiny.tools())
    by_uid = {passage.uid: passage for passage in tiny.passages}
    for row, question in zip(rows, questions, strict=True):
        assert row["id"] == question.id
        assert len(row["retrieved"]) == 5
        uids = [hit["uid"] for hit in row["retrieved"]]
        assert [hit["is_gold"] for hit in row["retrieved"]] == [uid in question.gold_uids for uid in uids]
        assert any(row["prediction"] in by_uid[uid].text for uid in uids[:3])
        assert row["is_answer_read"] == any(question.answers[0] in by_uid[uid].text for uid in uids[:3])
    scores = summarise(rows)
    assert scores["questions"] == len(questions)
    assert scores["recall"][5] == np.mean([any(hit["is_gold"] for hit in row["retrieved"]) for row in rows])
    assert scores["recall"] == scores["answer_recall"]  # here only the gold passage holds the answer
    assert set(scores["fields"]) == {question.field for question in questions}


def test_retrieval_alone_finds_the_same(tiny: Tiny) -> None:
    model, questions = tiny.model(), tiny.questions["test"]
    answered = answer_questions(model, questions, by_tower(tiny.corpus), **tiny.tools())
    found = retrieve_for_questions(model.query_tower, questions, by_tower(tiny.corpus), **tiny.tools())
    assert found == [{name: row[name] for name in found[0]} for row in answered]


def test_passages_of_bm25_are_read_by_the_same_reader_with_the_towers_scores(tiny: Tiny) -> None:
    pytest.importorskip("bm25s")
    model, questions = tiny.model(), tiny.questions["test"]
    rows = answer_questions(model, questions, by_words(Bm25(tiny.passages), tiny.corpus), **tiny.tools())
    by_uid = {passage.uid: place for place, passage in enumerate(tiny.passages)}
    ids = tiny.tokenizer.encode_questions([question.question for question in questions])
    queries_BP = embed_queries(model.query_tower, ids, special=tiny.tokenizer.special, max_tokens=16)
    for row, question, query_P in zip(rows, questions, queries_BP, strict=True):
        first = tiny.passages[by_uid[row["retrieved"][0]["uid"]]]
        assert set(question.field.split()) <= set(first.title.split())  # it is of the town and fact that are asked for
        for hit in row["retrieved"]:
            assert hit["score"] == pytest.approx(tiny.corpus.vectors_NP[by_uid[hit["uid"]]] @ query_P, rel=1e-4)
    assert all(row["found_place"] == 0 for row in rows)


def test_baselines_read_random_passages_and_know_the_majority(tiny: Tiny) -> None:
    questions = tiny.questions["test"]
    majority = {"": "nothing", questions[0].field: questions[0].answers[0]}
    arguments = {**tiny.tools(), "majority": majority, "seed": 5}
    rows = baselines(tiny.model(), questions, **arguments)
    assert rows == baselines(tiny.model(), questions, **arguments)
    assert rows != baselines(tiny.model(), questions, **{**arguments, "seed": 6})
    assert [row["is_exact_majority"] for row in rows] == [q.answers == questions[0].answers for q in questions]


def test_majority_answers_by_hand() -> None:
    def asked(field: str, *answers: str) -> Question:
        return Question(id="", question="?", answers=answers, field=field)

    questions = [
        asked("money", "Euro"),
        asked("money", "the euro", "EUR"),
        asked("city", "Rome"),
        asked("city", "Bern"),
    ]
    assert majority_answers(questions) == {"": "euro", "money": "euro", "city": "bern"}


def test_a_saved_model_answers_as_before(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.model().eval()
    model.save(tmp_path)
    loaded = QaModel.load(tmp_path).eval()
    finder = tiny.finder()
    batch = tiny.batch(finder, (0, 5))
    first, second = (QaObjective(each, find=finder)(batch).loss.item() for each in (model, loaded))
    assert first == second
    with pytest.raises(CheckpointError, match="was not written by question answering"):
        QaModel.load(tmp_path / "elsewhere")


def test_every_epoch_asks_every_question_once_whoever_asks() -> None:
    order = question_order(7, start=0, stop=21, seed=3)
    assert [sorted(order[start : start + 7]) for start in (0, 7, 14)] == [list(range(7))] * 3
    assert order[:7] != order[7:14]
    assert order == [number for start in range(21) for number in question_order(7, start=start, stop=start + 1, seed=3)]
    assert question_order(7, start=0, stop=7, seed=4) != order[:7]


def test_without_questions_the_setting_to_give_is_named(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="qa.data is not set"):
        _ = tiny.config.qa.folder
