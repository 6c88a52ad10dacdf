"""What is timed of preparing and reading text, each beside its reference, in turns. What the numbers must reach is
data.py's business.
"""

import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers

from realm_ds.bench.measure import alternate
from realm_ds.bench.processes import Result, write_progress
from realm_ds.data.shards import Shards, open_shards
from realm_ds.data.tokenizer import train_wordpiece
from realm_ds.factbook.entities import load_entities
from realm_ds.prepare.corpus import Cutting, chunks_of, prepare_corpus, start_work
from realm_ds.prepare.documents import Document
from realm_ds.prepare.finders import FinderChoice
from realm_ds.prepare.passages import CorpusPassages
from realm_ds.prepare.pretrain import Making, prepare_pretrain
from realm_ds.prepare.sources import open_source

Options = Mapping[str, Any]
MOST_PACKED, MOST_PREPARED = 3_000_000, 24_000_000
"""Characters: what takes a second or two, and some ten."""
READ_TOKENS = 144
"""Of a passage at most: with shorter ones at the end of documents, as long as REALM's are on average."""
PER_SHARD = 5_000


def pack(options: Options, *, folder: Path) -> Result:
    """Documents to records in this process, against encode_batch over the same texts: MB of text a second."""
    backend = _tokenizer(options, folder)
    chunks = list(chunks_of(_documents(options, folder, most=MOST_PACKED)))
    make = start_work(Cutting(tokenizer=folder / "tokenizer"))

    def ours() -> None:
        for chunk in chunks:
            make(chunk)

    def bare() -> None:
        for chunk in chunks:
            backend.encode_batch([document.text for document in chunk], add_special_tokens=False)

    return _beside(ours, bare, [document for chunk in chunks for document in chunk], options, folder)


def prepare(options: Options, *, folder: Path) -> Result:
    """The whole command in a folder that is new each time, against encode_batch with as many threads."""
    backend = _tokenizer(options, folder)
    documents = _documents(options, folder, most=MOST_PREPARED)
    lines, out = folder / "read.jsonl", folder / "corpus"
    _write(documents, lines)

    def ours() -> None:
        shutil.rmtree(out, ignore_errors=True)
        prepare_corpus(
            open_source([lines]), out, Cutting(tokenizer=folder / "tokenizer"), per_shard=PER_SHARD,
            workers=options["threads"], resume=False,
        )  # fmt: skip

    def bare() -> None:
        for chunk in chunks_of(documents):
            backend.encode_batch([document.text for document in chunk], add_special_tokens=False)

    return _beside(ours, bare, documents, {**options, "blocks": -(-options["blocks"] // 2)}, folder)


def read(options: Options, *, folder: Path) -> Result:
    """Passages and examples a second, against the members' bytes by tarfile."""
    _tokenizer(options, folder)
    lines = folder / "read.jsonl"
    _write(_documents(options, folder, most=MOST_PREPARED), lines)
    tokenizer = folder / "tokenizer"
    cutting = Cutting(tokenizer=tokenizer, passage_tokens=READ_TOKENS)
    prepare_corpus(open_source([lines]), folder / "corpus", cutting, per_shard=PER_SHARD, workers=1, resume=False)
    prepare_pretrain(
        CorpusPassages(folder / "corpus", tokenizer=tokenizer), folder / "pretrain",
        Making(tokenizer=tokenizer, finder=FinderChoice()), per_shard=PER_SHARD, workers=1, resume=False,
    )  # fmt: skip
    corpus = open_shards(folder / "corpus", kind="corpus", fingerprint=None)
    pretrain = open_shards(folder / "pretrain", kind="pretrain", fingerprint=None)
    lengths = {
        "passages": [len(passage.title_ids) + len(passage.body_ids) for passage in corpus.passages()],
        "examples": [len(example.ids) for example in pretrain.examples()],
    }
    sides: dict[str, tuple[Shards, Callable[[], Iterator[Any]]]] = {
        "passages": (corpus, corpus.passages), "examples": (pretrain, pretrain.examples),
    }  # fmt: skip
    found: Result = {}
    for kind, (shards, records) in sides.items():
        timed = alternate(
            {"ours": partial(_rate, records), "bare": partial(_rate, partial(_members, shards))},
            blocks=options["blocks"] + 1,
        )  # fmt: skip
        found[kind] = {name: rates[1:] for name, rates in timed.items()}  # the first warms up
        found[kind] |= {"count": shards.count, "wordpieces": sum(lengths[kind]) / shards.count}
    return found


def _rate(records: Callable[[], Iterator[Any]]) -> float:
    started_at = time.perf_counter()
    count = sum(1 for _ in records())
    return count / (time.perf_counter() - started_at)


def _members(shards: Shards) -> Iterator[bytes]:
    assert shards.place.folder is not None
    for entry in shards.manifest.shards:
        with tarfile.open(shards.place.folder / entry.name) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                yield content.read()


def _beside(
    ours: Callable[[], None], bare: Callable[[], None], documents: Sequence[Document], options: Options, folder: Path
) -> Result:
    num_bytes = sum(len(document.text.encode()) for document in documents)
    done, total = 0, 2 * (options["blocks"] + 1)

    def timed(run: Callable[[], None]) -> float:
        nonlocal done
        started_at = time.perf_counter()
        run()
        took_s = time.perf_counter() - started_at
        done += 1
        write_progress(folder, done=done, total=total, now="in turns")
        return num_bytes / 1e6 / took_s

    found = alternate({"ours": partial(timed, ours), "bare": partial(timed, bare)}, blocks=options["blocks"] + 1)
    return {
        "ours_mb_s": found["ours"][1:],  # the first warms up
        "bare_mb_s": found["bare"][1:],
        "characters": sum(document.num_characters for document in documents),
    }


def _tokenizer(options: Options, folder: Path) -> tokenizers.Tokenizer:
    """The raw one, as many threads as it may have; our folder of it is folder/tokenizer."""
    os.environ["RAYON_NUM_THREADS"] = str(options["threads"])
    write_progress(folder, done=0, total=1, now="training a vocabulary")
    texts = (document.text for document in _documents(options, folder, most=MOST_PACKED))
    train_wordpiece(texts, vocab_size=options["vocabulary"], folder=folder / "tokenizer")
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))


def _documents(options: Options, folder: Path, *, most: int) -> list[Document]:
    """Documents of up to so many characters: of a file, or one an entity of the Factbook, as often as asked for."""
    found: list[Document] = []
    left = most
    for document in _source(options, folder):
        left -= document.num_characters
        if left < 0 and found:
            break
        found.append(document)
    return found


def _source(options: Options, folder: Path) -> Iterator[Document]:
    if options["text"] is not None:
        yield from open_source([options["text"]]).documents()
        return
    entities = load_entities()[: options["entities"]]
    for copy in range(options["copies"]):
        for entity in entities:
            text = "\n".join(said for parts in entity.fields.values() for said in parts.values())
            name = f"{entity.name} {copy}"
            yield Document(id=name, title=name, text=text, where=name)


def _write(documents: Sequence[Document], path: Path) -> None:
    members = ({"id": document.id, "title": document.title, "text": document.text} for document in documents)
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in members), encoding="utf-8")
