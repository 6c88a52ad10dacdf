"""Masked words filled in by a pre-trained export, without fine-tuning: p(y|x), the marginal over retrieved passages.

Shapes: B statements, C candidates of each (the null passage first, where there is one), R pairs of a statement and a
candidate, V vocabulary, P embedding, Y answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from realm_ds.data.answer_spans import find_answer_spans, span_characters
from realm_ds.data.batches import passage_batch
from realm_ds.data.records import Passage
from realm_ds.errors import CheckpointError
from realm_ds.eval.asking import Answerer, source_of
from realm_ds.eval.corpus import device_of, embed_queries, embed_with, softmax, tensors
from realm_ds.eval.exported import Exported, Tell, open_export, tell_nobody
from realm_ds.eval.looking import Looked, Read, Said
from realm_ds.eval.reading import Pair, joint_buckets, joint_tokens
from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.names import ENCODER, PASSAGE_TOWER, QUERY_TOWER
from realm_ds.models.towers import Embedder
from realm_ds.observe.answers import Answer

NULL_PASSAGE: Pair = ((), ())


class RealmForCloze(Answerer):
    """Fills in the one [MASK] of a statement with a word, from an export that `realm-ds export` wrote."""

    def __init__(
        self, exported: Exported, *, query_tower: Embedder, passage_tower: Embedder, encoder: KnowledgeAugEncoder
    ) -> None:
        super().__init__(exported)
        self._query_tower, self._encoder = query_tower, encoder
        sizes, special = self._sizes, self._special
        self._null_1P = embed_with(passage_tower)(
            passage_batch([NULL_PASSAGE], special=special, max_tokens=sizes.passage_tokens)
        )
        pieces = exported.tokenizer.tokens(range(exported.tokenizer.vocab_size))
        self._continues_word_V = np.array([piece.startswith("##") for piece in pieces])
        self._is_word_V = ~self._continues_word_V
        self._is_word_V[[special.pad, special.unk, special.cls, special.sep, special.mask]] = False

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device | None = None, tell: Tell = tell_nobody
    ) -> "RealmForCloze":
        """Open an export, or that of a run folder, on a device: a GPU where there is one.

        Raises CheckpointError, DataError or IndexFault that names what is missing or damaged.
        """
        exported = open_export(Path(folder), tell=tell)
        if not (exported.folder / ENCODER).is_dir():
            raise CheckpointError(f"{exported.folder} has no {ENCODER}: only an export of pre-training fills in masks")
        tell("loading the models")
        where = device_of(device)
        return cls(
            exported,
            query_tower=Embedder.load(exported.folder / QUERY_TOWER).eval().to(where),
            passage_tower=Embedder.load(exported.folder / PASSAGE_TOWER).eval().to(where),
            encoder=KnowledgeAugEncoder.load(exported.folder / ENCODER).eval().to(where),
        )

    def _fault(self, ids: Sequence[int]) -> str:
        num_masks = list(ids).count(self._special.mask)
        if num_masks != 1:
            longest = self._sizes.question_tokens - 2
            read = f" in the first {longest} wordpieces, which alone are read" if len(ids) == longest else ""
            return (
                f"{num_masks or 'no'} [MASK]{read}, but a pre-trained model fills in exactly one: write a statement "
                'such as "Its capital is [MASK].", or ask questions of a fine-tuned one'
            )
        return super()._fault([piece for piece in ids if piece != self._special.mask])

    def _answers(self, questions: Sequence[Sequence[int]], top: int) -> list[tuple[Answer, ...]]:
        marginal = self._marginal(questions)
        places_BK, num_null = marginal.places_BK, marginal.num_null
        words_BY = marginal.best_words(self._is_word_V, top)
        # Each word is told with the passage that most of its probability comes through.
        places_BY = np.stack(
            [
                joint_CV[num_null:, words].argmax(axis=0)
                for joint_CV, words in zip(marginal.joint_BCV, words_BY, strict=True)
            ]
        )
        passages = self._exported.shards.passages_at(np.take_along_axis(places_BK, places_BY, axis=1).ravel().tolist())
        return [
            tuple(
                self._told(
                    word, passages[int(places_BK[row, place])], p=float(marginal.joint_BCV[row, :, word].sum()),
                    p_passage=float(marginal.p_z_BC[row, num_null + place]),
                )
                for word, place in zip(words_BY[row].tolist(), places_BY[row].tolist(), strict=True)
            )
            for row in range(len(questions))
        ]  # fmt: skip

    def _look(self, question: Sequence[int], top: int) -> Looked:
        marginal = self._marginal([question])
        words = marginal.best_words(self._is_word_V, top)[0].tolist()
        places = [None] * marginal.num_null + marginal.places_BK[0].tolist()
        passages = self._exported.shards.passages_at(marginal.places_BK[0].tolist())
        read = []
        for place, p, p_V in zip(places, marginal.p_z_BC[0].tolist(), marginal.p_y_BCV[0], strict=True):
            passage = passages[place] if place is not None else None
            own = _best_words(p_V[None], self._is_word_V, top)[0].tolist()
            read.append(
                Read(
                    passage=source_of(passage) if passage is not None else None, p=p, weight=p,
                    says=tuple(self._said(word, passage, p_V) for word in words),
                    best=tuple(self._said(word, passage, p_V) for word in own),
                )
            )  # fmt: skip
        p_V = marginal.joint_BCV[0].sum(axis=0)
        return Looked(
            question="",
            answers=tuple((self._exported.tokenizer.decode([word]), float(p_V[word])) for word in words),
            read=tuple(sorted(read, key=lambda of_one: -of_one.p)),
        )

    def _marginal(self, questions: Sequence[Sequence[int]]) -> "_Marginal":
        settings = self._exported.settings
        queries_BP = embed_queries(
            self._query_tower, questions, special=self._special, max_tokens=self._sizes.question_tokens
        )
        num_null = int(settings.null_passage)
        hits = self._exported.corpus.search(queries_BP, num_hits=self._sizes.read)
        scores_BC = np.concatenate([(queries_BP @ self._null_1P.T)[:, :num_null], hits.scores_BK], axis=1)
        p_z_BC = softmax(scores_BC / settings.temperature)
        p_y_BCV = self._read(questions, hits.places_BK, num_null=num_null)
        return _Marginal(
            places_BK=hits.places_BK, num_null=num_null, p_z_BC=p_z_BC, p_y_BCV=p_y_BCV,
            joint_BCV=p_z_BC[:, :, None] * p_y_BCV,
        )  # fmt: skip

    @torch.inference_mode()
    def _read(self, questions: Sequence[Sequence[int]], places_BK: np.ndarray, *, num_null: int) -> np.ndarray:
        """p(y|z, x) of every wordpiece at the mask, given each candidate, float32 [B, C, V]."""
        device = next(self._encoder.parameters()).device
        pairs: list[Pair] = []
        for question, places in zip(questions, places_BK, strict=True):
            bodies = [()] * num_null + self._exported.corpus.bodies(places)
            pairs += [(question, body) for body in bodies]
        num_candidates = num_null + places_BK.shape[1]
        mask_places_B = [1 + list(question).index(self._special.mask) for question in questions]  # [CLS] comes first
        mask_places_R = np.repeat(mask_places_B, num_candidates)
        p_RV = np.empty((len(pairs), self._exported.tokenizer.vocab_size), dtype=np.float32)
        for rows in joint_buckets(pairs, sizes=self._sizes):
            tokens, _ = joint_tokens([pairs[row] for row in rows], special=self._special, sizes=self._sizes)
            places_R1 = torch.from_numpy(mask_places_R[rows, None]).to(device)
            logits_R1V = self._encoder.logits(tensors(tokens, device), places_R1)
            p_RV[rows] = logits_R1V[:, 0, : p_RV.shape[1]].softmax(dim=-1).cpu().numpy()
        return p_RV.reshape(len(questions), num_candidates, -1)

    def _told(self, word: int, passage: Passage, *, p: float, p_passage: float) -> Answer:
        """A word as an answer, in the passage's own letters where that holds it."""
        span = next(iter(self._spans(word, passage)), None)
        text = passage.text[slice(*span)] if span is not None else self._exported.tokenizer.decode([word])
        return Answer(text=text, p=p, p_passage=p_passage, passage=source_of(passage), span=span)

    def _said(self, word: int, passage: Passage | None, p_V: np.ndarray) -> Said:
        spans = self._spans(word, passage) if passage is not None else ()
        return Said(text=self._exported.tokenizer.decode([word]), p=float(p_V[word]), spans=spans)

    def _spans(self, word: int, passage: Passage) -> tuple[tuple[int, int], ...]:
        """Where the passage's text holds the word."""
        body_T = np.array(passage.body_ids)
        found = find_answer_spans(
            body_T, np.array([0, len(body_T)]), [(word,)], continues_word_V=self._continues_word_V
        )  # fmt: skip
        if not len(found.start_S):
            return ()
        encoded = self._exported.tokenizer.encode_with_offsets(passage.text)
        spans = (span_characters(passage.body_ids, start, start + 1, encoded=encoded) for start in found.start_S)
        return tuple(span for span in spans if span is not None)


@dataclass(frozen=True, kw_only=True)
class _Marginal:
    """The candidates of some statements, and how probable they make every wordpiece at the mask."""

    places_BK: np.ndarray
    """Of the passages: the null passage, where there is one, comes before them in C."""
    num_null: int
    p_z_BC: np.ndarray
    p_y_BCV: np.ndarray
    joint_BCV: np.ndarray
    """p(y, z|x)."""

    def best_words(self, is_word_V: np.ndarray, top: int) -> np.ndarray:
        """The most probable words by p(y|x), int64 [B, Y]."""
        return _best_words(self.joint_BCV.sum(axis=1), is_word_V, top)


def _best_words(p_BV: np.ndarray, is_word_V: np.ndarray, top: int) -> np.ndarray:
    return np.argsort(-np.where(is_word_V, p_BV, -1.0), axis=1, kind="stable")[:, :top]
