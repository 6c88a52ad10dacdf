"""How well towers retrieve: the corpus embedded once, then statements or questions put to all of it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from realm_ds.config.schema import RealmConfig
from realm_ds.data.records import Question, SpecialIds
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.eval.corpus import CorpusIndex, embed_queries, embed_with
from realm_ds.eval.retrieval import RECALL_AT, gold_hits, recalls
from realm_ds.index.embedding import ShardEmbedder
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.passages import PassageShard, load_shard
from realm_ds.models.towers import Embedder
from realm_ds.train.stage import starting_model

Recalls = dict[int, float]
"""Share of queries with a gold passage among the first k, by k."""


def embed_passages(
    tower: Embedder, passages: PassageShard, *, config: RealmConfig, special: SpecialIds
) -> np.ndarray:  # fmt: skip
    """Vectors of all passages of the shard in corpus order, float32 (N, P)."""
    vectors_NP = np.empty((len(passages), tower.dense.out_features), dtype=np.float32)
    embed_into(vectors_NP, tower, passages, config=config, special=special)
    return vectors_NP


def embed_into(
    vectors_NP: np.ndarray, tower: Embedder, passages: PassageShard, *, config: RealmConfig, special: SpecialIds,
    unless: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    """The same where the vectors are to be; those of some alone once `unless` holds."""
    embedder = ShardEmbedder(
        passages,
        special=special,
        passage_tokens=config.data.passage_tokens,
        batch_tokens=config.index.embed_batch_tokens,
        width=tower.dense.out_features,
    )
    for _ in embedder.run(embed_with(tower), vectors_NP):
        if unless():
            break


def recall_of(config: RealmConfig, question_sets: Mapping[str, Sequence[Question]]) -> dict[str, Recalls]:
    """Recall, over the whole corpus by exact search, of the towers that a run with this config would start from.

    `model.start_from` names the export to judge; without it, the towers are random. One entry for each set.
    """
    tokenizer = load_tokenizer(config.data.tokenizer)
    corpus = open_shards(
        config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint, timeout_s=config.runtime.wait_timeout_s
    )
    realm = starting_model(config, vocab_size=tokenizer.vocab_size).eval()
    if torch.cuda.is_available():
        realm = realm.to("cuda")
    passages = load_shard(corpus, shard_rank=0, num_shards=1, max_tokens=config.data.passage_tokens)
    table = VectorTable(len(passages), config.model.projection_size)
    embed_into(table.vectors_NP, realm.passage_tower, passages, config=config, special=tokenizer.special)
    index = CorpusIndex(passages, table)

    def recall(questions: Sequence[Question]) -> Recalls:
        ids = tokenizer.encode_questions([question.question for question in questions])
        queries_BP = embed_queries(
            realm.query_tower, ids, special=tokenizer.special, max_tokens=config.data.query_tokens
        )
        hits = index.search(queries_BP, num_hits=max(RECALL_AT))
        return recalls(gold_hits(hits.uids_BK, [question.gold_uids for question in questions]))

    return {name: recall(questions) for name, questions in question_sets.items()}
