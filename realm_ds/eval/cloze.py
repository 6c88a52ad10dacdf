"""Masked words filled in by a pre-trained export, without fine-tuning: p(y|x), the marginal over retrieved passages.

Shapes: B statements, C candidates of each (the null passage first, where there is one), R pairs of a statement and a
candidate, V vocabulary, P embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from realm_ds.data.batches import passage_batch
from realm_ds.data.records import Passage
from realm_ds.data.words import words_of
from realm_ds.errors import CheckpointError
from realm_ds.eval.asking import Answerer
from realm_ds.eval.corpus import device_of, embed_queries, embed_with
from realm_ds.eval.exported import Exported, Tell, open_export, tell_nobody
from realm_ds.eval.looking import Looked, source_of
from realm_ds.eval.pairs import Pair
from realm_ds.eval.retrieval import softmax
from realm_ds.eval.words import Word, best_words, look_at_words, word_in, word_probabilities
from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.names import ENCODER, PASSAGE_TOWER, QUERY_TOWER
from realm_ds.models.readers import WordReader
from realm_ds.models.towers import Embedder
from realm_ds.observe.answers import Answer

NULL_PASSAGE: Pair = ((), ())


class RealmForCloze(Answerer):
    """Fills in the one [MASK] of a statement with a word, from an export that `realm-ds export` wrote."""

    def __init__(
        self, exported: Exported, *, query_tower: Embedder, passage_tower: Embedder, encoder: KnowledgeAugEncoder
    ) -> None:
        super().__init__(exported)
        self._query_tower, self._reader = query_tower, WordReader(encoder)
        sizes, special = self._sizes, self._special
        self._null_1P = embed_with(passage_tower)(
            passage_batch([NULL_PASSAGE], special=special, max_tokens=sizes.passage_tokens)
        )
        self._words = words_of(exported.tokenizer)

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
        exported, (places_BK, p_z_BC, p_y_BCV) = self._exported, self._marginal(questions)
        num_null = p_z_BC.shape[1] - places_BK.shape[1]
        best = best_words(p_z_BC, p_y_BCV, is_word_V=self._words.is_word_V, most=top, num_null=num_null)
        passages = exported.shards.passages_at(places_BK.ravel().tolist())
        return [
            tuple(
                self._told(word, passages[int(places_K[word.candidate])], p_passage=p_z_C[num_null + word.candidate])
                for word in words
            )
            for words, places_K, p_z_C in zip(best, places_BK, p_z_BC.tolist(), strict=True)
        ]

    def _look(self, question: Sequence[int], top: int) -> Looked:
        places_BK, p_z_BC, p_y_BCV = self._marginal([question])
        places = places_BK[0].tolist()
        passages = self._exported.shards.passages_at(places)
        candidates = [None] * (p_z_BC.shape[1] - len(places)) + [passages[place] for place in places]
        return look_at_words(
            p_z_BC[0], p_y_BCV[0], candidates, tokenizer=self._exported.tokenizer, words=self._words, most=top
        )

    def _marginal(self, questions: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places [B, K] of what is found; p(z|x) [B, C], the null passage first if it is one; p(y|z, x) [B, C, V]."""
        exported, sizes = self._exported, self._sizes
        queries_BP = embed_queries(
            self._query_tower, questions, special=self._special, max_tokens=sizes.question_tokens
        )  # fmt: skip
        num_null = int(exported.settings.null_passage)
        hits = exported.corpus.search(queries_BP, num_hits=sizes.read)
        scores_BC = np.concatenate([(queries_BP @ self._null_1P.T)[:, :num_null], hits.scores_BK], axis=1)
        p_z_BC = softmax(scores_BC / exported.settings.temperature)
        pairs = [
            (question, body)
            for question, places in zip(questions, hits.places_BK, strict=True)
            for body in [()] * num_null + exported.corpus.bodies(places)
        ]
        p_RV = word_probabilities(
            self._reader, pairs, special=self._special, sizes=sizes, vocab_size=exported.tokenizer.vocab_size
        )
        return hits.places_BK, p_z_BC, p_RV.reshape(*p_z_BC.shape, -1)

    def _told(self, word: Word, passage: Passage, *, p_passage: float) -> Answer:
        text, span = word_in(passage, word.piece, tokenizer=self._exported.tokenizer, words=self._words)
        return Answer(text=text, p=word.p, p_passage=p_passage, passage=source_of(passage), span=span)
