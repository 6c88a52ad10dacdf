"""transformers' RealmForOpenQA as an export of ours that answers questions, with the passages that lie beside it.

    OUT/{query_tower, reader, tokenizer, passages, index}/    answering.json    README.md    manifest.json, written last

Pre-trained models are importing.py's business. Shapes: N passages, P embedding.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from realm_ds.data.records import NUM_SPECIAL, Passage, passage_uid
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.eval.exported import AnswerSettings, write_qa_export
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.models.hf_block_records import BLOCK_RECORDS, read_block_records
from realm_ds.models.hf_realm_qa import HF_OPENQA, HfQa, read_hf_qa
from realm_ds.models.towers import Embedder
from realm_ds.train.export import Say
from realm_ds.train.export_card import qa_card

PER_SHARD = 5_000
ENCODED_AT_ONCE = 1_000
EMPTY, CUT = "of nothing, left out", "cut to the wordpieces that are read"


def find_openqa(source: Path) -> Path | None:
    """The folder of a RealmForOpenQA with its passages: this one, or openqa/ in it."""
    return next((place for place in (source, source / HF_OPENQA) if (place / BLOCK_RECORDS).is_file()), None)


def import_qa(folder: Path, out: Path, *, tokenizer_folder: Path, kind: str, say: Say) -> None:
    """Write the export. Raises CheckpointError, ConfigError or DataError."""
    found, tokenizer = read_hf_qa(folder), load_tokenizer(tokenizer_folder)
    check_vocabulary(found.model.query_tower, tokenizer, tokenizer_folder)
    sizes = ReadingSizes(
        question_tokens=found.question_tokens, passage_tokens=found.passage_tokens, read=found.num_read
    )
    settings = AnswerSettings(
        sizes=sizes, null_passage=False, temperature=1.0, tokenizer_fingerprint=tokenizer.fingerprint
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside where it goes: the shards go on there as links.
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.tmp-", dir=out.parent) as scratch:
        corpus, own_tokenizer = Path(scratch) / "corpus", Path(scratch) / "tokenizer"
        tokenizer.save(own_tokenizer)  # in the form that we write, whatever it came in
        is_kept_N, tally = _write_corpus(corpus, folder, found, tokenizer)
        for what, count in tally.items():
            say(f"{count} of {len(found.vectors_NP)} passages {what}")
        vectors_NP = found.vectors_NP.numpy()
        if not is_kept_N.all():  # else a copy for nothing, of gigabytes for a corpus of millions
            vectors_NP = vectors_NP[is_kept_N]
        shards = open_shards(corpus, kind="corpus", fingerprint=tokenizer.fingerprint)
        made = f"Made by `realm-ds import` of {folder.name}"
        write_qa_export(
            out, found.model, shards=shards, vectors=[vectors_NP], tokenizer_folder=own_tokenizer, settings=settings,
            kind=kind, card=qa_card(layout="realm", corpus=shards, sizes=sizes, made=made),
        )  # fmt: skip


def check_vocabulary(tower: Embedder, tokenizer: Tokenizer, folder: Path) -> None:
    """Raise ConfigError for a tokenizer of another vocabulary than the models'."""
    num_words = tower.bert.config.vocab_size
    if num_words != tokenizer.vocab_size:
        raise ConfigError(
            f"the models have {num_words} wordpieces and the tokenizer in {folder} has {tokenizer.vocab_size}: name "
            "the one that they were trained with in --tokenizer"
        )


def _write_corpus(corpus: Path, folder: Path, found: HfQa, tokenizer: Tokenizer) -> tuple[np.ndarray, Counter[str]]:
    """The passages as tar shards; which of the vectors have one, and what was done to how many."""
    is_kept_N, tally = np.zeros(len(found.vectors_NP), dtype=bool), Counter[str]()
    records = _counted(read_block_records(folder / BLOCK_RECORDS), len(found.vectors_NP), folder)
    longest = found.passage_tokens - NUM_SPECIAL
    write_shards(
        _passages(records, tokenizer, longest=longest, is_kept_N=is_kept_N, tally=tally), corpus, kind="corpus",
        per_shard=PER_SHARD, tokenizer_fingerprint=tokenizer.fingerprint, source=f"{BLOCK_RECORDS} of {folder.name}",
        settings={"passage_tokens": found.passage_tokens},
    )  # fmt: skip
    return is_kept_N, tally


def _counted(records: Iterable[str], wanted: int, folder: Path) -> Iterator[str]:
    """As many as are wanted; raises CheckpointError where there are others, or too few."""
    count = 0
    for record in records:
        count += 1
        if count <= wanted:
            yield record
    if count != wanted:
        raise CheckpointError(
            f"{folder} has {count} passages in {BLOCK_RECORDS} and {wanted} vectors of passages in its weights: copy "
            "both from one checkpoint"
        )


def _passages(
    texts: Iterator[str], tokenizer: Tokenizer, *, longest: int, is_kept_N: np.ndarray, tally: Counter[str]
) -> Iterator[Passage]:
    """Passages without titles, each one sentence; their places are marked in `is_kept_N`."""
    place = 0
    while some := list(islice(texts, ENCODED_AT_ONCE)):
        for text, (ids, offsets) in zip(some, tokenizer.encode_all_with_offsets(some), strict=True):
            if ids:
                is_kept_N[place] = True
                if len(ids) > longest:
                    tally[CUT] += 1
                    ids, text = ids[:longest], text[: offsets[longest - 1][1]]
                yield Passage(
                    uid=passage_uid("", text), title="", text=text, article="", title_ids=(), body_ids=tuple(ids),
                    sentences=((0, len(ids)),),
                )  # fmt: skip
            else:
                tally[EMPTY] += 1
            place += 1
