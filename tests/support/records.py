"""Small passages and examples for tests, numbered so that each can be told from the others."""

from pathlib import Path

from realm_ds.data.records import Example, Passage, SpecialIds
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.shards import Manifest

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


def make_passage(number: int, *, article: str = "", num_sentences: int = 2, sentence_tokens: int = 2) -> Passage:
    """A passage with uid number + 1; its wordpieces are 100, 101, ..."""
    ends = range(0, (num_sentences + 1) * sentence_tokens, sentence_tokens)
    return Passage(
        uid=number + 1,
        title=f"title {number}",
        text=f"text {number}",
        article=article or f"article {number}",
        title_ids=(10 + number % 1000,),
        body_ids=tuple(range(100, 100 + num_sentences * sentence_tokens)),
        sentences=tuple((end, end + sentence_tokens) for end in ends[:-1]),
    )


def make_example(number: int, *, num_tokens: int = 6, spans: tuple[tuple[int, int], ...] = ((1, 3),)) -> Example:
    """An example with id `x<number>`, wordpieces 100, 101, ... and origin uid number + 1."""
    return Example(
        id=f"x{number}",
        text=f"text {number}",
        ids=tuple(range(100, 100 + num_tokens)),
        sentences=((0, num_tokens),),
        spans=spans,
        origin_uid=number + 1,
    )


def write_corpus(folder: Path, passages: list[Passage], *, per_shard: int = 3) -> Manifest:
    """Corpus shards made with the tokenizer `fingerprint`."""
    return write_shards(
        passages,
        folder,
        kind="corpus",
        per_shard=per_shard,
        tokenizer_fingerprint="fingerprint",
        source="a test",
        settings={},
    )
