"""Probes: a few fixed questions and sentences, and what every index version finds for them, written down for people.

How much versions differ over many sentences is staleness.py's business, how good retrieval is evaluate.py's. Training
goes on as if nothing had been asked: no random number is drawn, no search counted. One trainer asks; what was found is
a function of (probe, version), as the queries come from the version's own snapshot.

Shapes: B probes, K hits, C candidates (null first), P embedding, V vocabulary.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from realm_ds.data.masking import MaskedExample
from realm_ds.data.question_files import load_questions
from realm_ds.data.records import NO_UID, Passage, Question
from realm_ds.data.tokenizer import MASK, Tokenizer
from realm_ds.data.words import words_of
from realm_ds.index.client import IndexClient
from realm_ds.index.merge import Candidates, Hit
from realm_ds.index.versions import Schedule
from realm_ds.models.towers import Embedder, embed
from realm_ds.train.collate import NULL_PASSAGE
from realm_ds.train.evaluate import QuestionBatch, held_out_sentences, right_hits
from realm_ds.train.refresh import QueryTowers
from realm_ds.train.search_ahead import exclusion_of
from realm_ds.train.stage import Stage

log = logging.getLogger(__name__)

MOST_HITS = 5
"""Of each probe are written down."""
MOST_CHARACTERS = 240
"""Of a passage."""


@dataclass(frozen=True, kw_only=True)
class ProbeQuery:
    """What every version is asked for."""

    text: str
    example: MaskedExample
    """The query; a question is a sentence of which nothing is to be predicted."""
    answers: tuple[str, ...] = ()
    answer_ids: Sequence[Sequence[int]] = ()
    gold_uids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A search on its way."""

    request: int
    null_scores_B: np.ndarray | None
    """Relevance of the null passage; None where there is none, or its vector is not known here."""
    took_s: float


class ProbeRecorder:
    """Asks at the adoption of a version, and writes down at the end of that step: the search hides behind training."""

    def __init__(
        self,
        stage: Stage,
        probes: Sequence[ProbeQuery],
        *,
        schedule: Schedule,
        towers: QueryTowers,
        client: IndexClient,
    ) -> None:
        self._stage, self._probes = stage, probes
        self._schedule, self._towers, self._client = schedule, towers, client
        self._collator = stage.collator()
        self._continues_word_V = words_of(stage.tokenizer).continues_V if probes else np.zeros(0, dtype=bool)
        self._asked: _Asked | None = None

    def ask(self, step: int) -> None:
        """Send the search, if `step` is the first of a version. After the step's own answers have come: it must not
        stand in their way."""
        if self._schedule.adoption_at(step) is None or not self._probes:
            return
        started_at = time.perf_counter()
        config, (version, tower) = self._stage.config, self._towers.at(step)
        examples = [probe.example for probe in self._probes]
        vectors_BP = embed(tower, self._collator.masked_queries(examples)).numpy()
        request = self._client.submit(
            vectors_BP, exclusion=exclusion_of(examples, index=config.index), num_hits=config.pretrain.num_retrieved,
            step=step, version=version, counts=False,
        )  # fmt: skip
        null_scores_B = self._null_scores(vectors_BP, tower)
        self._asked = _Asked(request=request, null_scores_B=null_scores_B, took_s=time.perf_counter() - started_at)

    def record(self, step: int) -> float:
        """Once `step` is trained: take the answer, if there is to be one. Returns the seconds that it was waited for.

        The text of passages is looked up and all of it written behind the training: before the checkpoint that counts
        on it, which is written there too.
        """
        if self._asked is None:
            return 0.0
        started_at = time.perf_counter()
        asked, self._asked = self._asked, None
        candidates = self._client.collect(asked.request)
        probe_ms = 1e3 * (asked.took_s + time.perf_counter() - started_at)
        self._stage.writer.submit("probes", partial(self._write, asked, candidates, step=step, probe_ms=probe_ms))
        return candidates.wait_s

    def _null_scores(self, vectors_BP: np.ndarray, tower: Embedder) -> np.ndarray | None:
        """By the tower of the snapshot, where it embeds passages too: that of passages alone is on the index ranks."""
        config = self._stage.config
        if not (config.pretrain.null_passage and config.model.share_towers):
            return None
        null_1P = embed(tower, self._collator.passages([NULL_PASSAGE])).numpy()
        scores_B: np.ndarray = vectors_BP @ null_1P[0]
        return scores_B

    def _write(self, asked: _Asked, candidates: Candidates, *, step: int, probe_ms: float) -> None:
        questions = QuestionBatch(
            ids=[probe.example.ids for probe in self._probes],
            gold_uids=[probe.gold_uids for probe in self._probes],
            answers=[probe.answer_ids for probe in self._probes],
        )
        right_BK = right_hits(candidates, questions, continues_word_V=self._continues_word_V)
        corpus, places_BK = self._stage.corpus, candidates.places_BK[:, :MOST_HITS]
        is_here = corpus.place.folder is not None
        passages = corpus.passages_at(places_BK[places_BK >= 0].tolist()) if is_here else {}
        found = [
            self._finding(row, asked, candidates, is_right_K=right_BK[row], passages=passages)
            for row in range(len(self._probes))
        ]
        self._stage.sinks.write("probed", step=step, version=candidates.version, probe_ms=probe_ms, probes=found)

    def _finding(
        self, row: int, asked: _Asked, candidates: Candidates, *, is_right_K: np.ndarray,
        passages: Mapping[int, Passage],
    ) -> dict[str, Any]:  # fmt: skip
        probe, hits = self._probes[row], candidates.hits(row)
        null = [] if asked.null_scores_B is None else [asked.null_scores_B[row]]
        scores_C = torch.tensor([*null, *(hit.score for hit in hits)], dtype=torch.float64)
        p_C = (scores_C / self._stage.config.pretrain.temperature).softmax(dim=0).tolist()
        p_K = p_C[len(null) :]
        can_be_right = bool(probe.gold_uids or probe.answer_ids)
        shown = []
        for place, hit in enumerate(hits[:MOST_HITS]):
            title, text = self._words(hit, passages.get(int(candidates.places_BK[row, place])))
            is_right = bool(is_right_K[place]) if can_be_right else None
            shown.append(
                {"uid": hit.uid, "title": title, "text": text, "score": hit.score, "p": p_K[place],
                 "is_right": is_right}
            )  # fmt: skip
        return {
            "query": probe.text, "answers": list(probe.answers), "null_p": p_C[0] if null else None, "hits": shown,
        }  # fmt: skip

    def _words(self, hit: Hit, passage: Passage | None) -> tuple[str, str]:
        """Title and text, of a corpus that is elsewhere as its wordpieces have them."""
        if passage is not None:
            return passage.title, passage.text[:MOST_CHARACTERS]
        decode = self._stage.tokenizer.decode
        return decode(hit.title_ids.tolist()), decode(hit.body_ids.tolist())[:MOST_CHARACTERS]


def probes_of(stage: Stage) -> list[ProbeQuery]:
    """What the settings ask for; nothing on all trainers but the first, which alone asks."""
    settings = stage.config.evaluate
    if stage.trainers.rank != 0 or not settings.num_probes:
        return []
    if settings.probes is not None:
        questions, sentences = load_questions(settings.probes, are_answered=False)[: settings.num_probes], []
    else:
        questions = load_questions(settings.questions) if settings.questions is not None else []
        sentences = held_out_sentences(stage, settings.num_probes)
        num_questions = max(settings.num_probes // 2, settings.num_probes - len(sentences))
        questions = questions[:num_questions]
        sentences = sentences[: settings.num_probes - len(questions)]
    tokenizer, query_tokens = stage.tokenizer, stage.config.data.query_tokens
    found = [_of_question(question, tokenizer, query_tokens=query_tokens) for question in questions]
    found += [_of_sentence(sentence, tokenizer) for sentence in sentences]
    log.info("%d probes are put to every index version", len(found))
    return found


def _of_question(question: Question, tokenizer: Tokenizer, *, query_tokens: int) -> ProbeQuery:
    special = tokenizer.special
    (ids,) = tokenizer.encode_questions([question.question])
    example = MaskedExample(
        id=question.id, ids=(special.cls, *ids[: query_tokens - 2], special.sep), mask_positions=(), targets=(),
        origin_uid=NO_UID,
    )  # fmt: skip
    return ProbeQuery(
        text=question.question, example=example, answers=question.answers, gold_uids=question.gold_uids,
        answer_ids=() if question.is_regex else tokenizer.encode_all(question.answers),
    )  # fmt: skip


def _of_sentence(sentence: MaskedExample, tokenizer: Tokenizer) -> ProbeQuery:
    """The text has [MASK] where the sentence has. Its answer is what is masked, if that is one span."""
    parts: list[list[int]] = [[]]
    for piece in sentence.ids:
        if piece == tokenizer.special.mask:
            parts.append([])
        else:
            parts[-1].append(piece)
    text = f" {MASK} ".join(tokenizer.decode(part) for part in parts)
    places = sentence.mask_positions
    is_span = list(places) == list(range(places[0], places[0] + len(places)))
    return ProbeQuery(
        text=" ".join(text.split()), example=sentence,
        answers=(tokenizer.decode(sentence.targets),) if is_span else (),
        answer_ids=(sentence.targets,) if is_span else (),
    )  # fmt: skip
