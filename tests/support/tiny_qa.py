"""Questions over tiny.make_data's corpus, and the corpus as fine-tuning holds it, with vectors drawn at random."""

from pathlib import Path

import numpy as np

from realm_ds.data.question_files import write_questions
from realm_ds.data.records import Question
from realm_ds.data.shards import open_shards
from realm_ds.eval.corpus import CorpusIndex
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.passages import PassageShard, load_shard
from tests.support.tiny import FACTS, TOWNS


def make_questions(data: Path) -> dict[str, list[Question]]:
    """Write qa/{train,dev,test}.jsonl: one question for each passage, dealt out by number."""
    corpus = open_shards(data / "corpus", kind="corpus", fingerprint=None)
    uids = {passage.title: passage.uid for passage in corpus.passages()}
    splits: dict[str, list[Question]] = {"train": [], "dev": [], "test": []}
    for number, (town, fact) in enumerate((town, fact) for town in TOWNS for fact in FACTS if f"{town} {fact}" in uids):
        split = ("train", "train", "train", "dev", "test")[number % 5]
        splits[split].append(
            Question(
                id=f"{town}-{fact}",
                question=f"what is the {fact} of {town} called?",
                answers=(f"{fact[:3]}{town[:3]}",),
                gold_uids=(uids[f"{town} {fact}"],),
                field=fact,
            )
        )
    for split, questions in splits.items():
        write_questions(data / "qa" / f"{split}.jsonl", questions)
    return splits


def qa_changes(data: Path, **changes: object) -> dict[str, object]:
    """For tiny_config: a fine-tuning that learns something in seconds."""
    return {
        "model.start": "narrow", "qa.data": data / "qa", "qa.steps": 12, "qa.micro_batch_size": 6,
        "qa.learning_rate": 1e-3, "qa.warmup_steps": 1, "qa.save_every_steps": 6, "qa.log_every_steps": 1,
        "qa.retrieve": 72, "qa.read": 4, "qa.read_one_with_answer": True, "qa.max_span_tokens": 6,
        "qa.span_hidden_size": 16, **changes,
    }  # fmt: skip


def make_corpus(data: Path, *, width: int, seed: int = 0) -> CorpusIndex:
    """All passages with random vectors."""
    corpus = open_shards(data / "corpus", kind="corpus", fingerprint=None)
    passages: PassageShard = load_shard(corpus, shard_rank=0, num_shards=1)
    vectors_NP = np.random.default_rng(seed).standard_normal((len(passages), width)).astype(np.float32)
    return CorpusIndex(passages, VectorTable.of(vectors_NP))
