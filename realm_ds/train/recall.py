"""How well towers retrieve: embed the whole corpus once, then ask it statements or questions. Metrics are eval/'s."""

from collections.abc import Sequence

import numpy as np
import torch

from realm_ds.config.schema import RealmConfig
from realm_ds.data.batches import Tokens
from realm_ds.data.records import NO_UID, Question, SpecialIds
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.eval.retrieval import RECALL_AT, gold_hits, recalls
from realm_ds.index.embedding import ShardEmbedder
from realm_ds.index.shard import PassageShard, build_shard
from realm_ds.models.towers import Embedder, TokenBatch, embed
from realm_ds.train.collate import Collator

QUERY_BATCH = 64


def embed_passages(
    tower: Embedder, passages: PassageShard, *, config: RealmConfig, special: SpecialIds
) -> np.ndarray:
    """Vectors of all passages of the shard in corpus order, float32 (N, P)."""
    embedder = ShardEmbedder(
        passages,
        special=special,
        passage_tokens=config.data.passage_tokens,
        batch_tokens=config.index.embed_batch_tokens,
        width=tower.dense.out_features,
    )

    def embed_batch(tokens: Tokens) -> np.ndarray:
        arrays = (tokens.ids_BL, tokens.mask_BL, tokens.types_BL)
        return embed(tower, TokenBatch(*map(torch.from_numpy, arrays))).numpy()

    vectors_NP = embedder.empty()
    for _ in embedder.run(embed_batch, vectors_NP):
        pass
    return vectors_NP


def question_recall(
    tower: Embedder,
    vectors_NP: np.ndarray,
    questions: Sequence[Question],
    *,
    passages: PassageShard,
    tokenizer: Tokenizer,
    collator: Collator,
    max_tokens: int,
) -> dict[int, float]:
    """Share of questions with a gold passage among the first 1, 5 and 20 of the whole corpus, by exact search."""
    index = build_shard(passages, vectors_NP, version=0, factory="Flat")
    ids = tokenizer.encode_all([question.question for question in questions])
    found = []
    for start in range(0, len(ids), QUERY_BATCH):
        vectors_BP = embed(tower, collator.queries(ids[start : start + QUERY_BATCH], max_tokens=max_tokens)).numpy()
        excluded_B = np.full(len(vectors_BP), NO_UID, dtype=np.int64)
        found.append(index.search(vectors_BP, num_hits=max(RECALL_AT), exclude_B=excluded_B).uids_BK)
    return recalls(gold_hits(np.concatenate(found), [question.gold_uids for question in questions]))
