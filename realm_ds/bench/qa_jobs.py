"""Questions answered by an export and by transformers' RealmForOpenQA of the same weights, timed in turns. What the
numbers must reach is qa.py's business.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realm_ds.bench.corpora import VectorsOf
from realm_ds.bench.peer import Peer
from realm_ds.bench.processes import Result, write_progress
from realm_ds.bench.towers import new_answerer
from realm_ds.data.answers import normalise
from realm_ds.data.question_files import load_questions
from realm_ds.data.records import Question
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.eval.exported import AnswerSettings, Exported, open_export, write_qa_export
from realm_ds.eval.hf_openqa import write_hf_openqa
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.eval.qa import answer_questions, by_tower
from realm_ds.factbook.prepare import prepare_demo
from realm_ds.models.qa import Dtype, QaModel

Options = Mapping[str, Any]
QUESTION_TOKENS, PASSAGE_TOKENS, READ = 64, 64, 5
MODES = ("retrieve", "read")
"""Of transformers' side (peer_qa.py)."""
DTYPES: tuple[Dtype, ...] = ("fp32", "bf16")
"""Of ours: what passages are read in."""
WARM_UP = 2
"""Questions that each side answers before any is timed."""


def answer(options: Options, *, folder: Path) -> Result:
    """Questions a second of each round by us in either dtype, by transformers with all that it retrieves and with
    what it reads alone; how many of its answers are ours. Of a round's questions it gets the first `at_once` of each
    mode."""
    os.environ["RAYON_NUM_THREADS"] = str(options["threads"])  # of tokenizers, on both sides
    export, file = Path(options["model"] or folder / "export"), Path(options["questions"] or "")
    if options["model"] is None:
        file = _make(export, options, folder)
    exported = open_export(export)
    models = {dtype: QaModel.load(exported.folder).answering("cpu", dtype=dtype) for dtype in DTYPES}
    find = by_tower(exported.corpus)
    at_once, questions = options["at_once"], load_questions(file)
    questions = _spread(questions, options["rounds"] * at_once["ours"])
    rounds = min(options["rounds"], len(questions))
    write_progress(folder, done=0, total=rounds, now="writing it for transformers")
    made = folder / "peer"
    write_hf_openqa(exported, models["fp32"], made)
    work = {"threads": options["threads"], "questions": [question.question for question in questions]}
    (made / "work.json").write_text(json.dumps(work), encoding="utf-8")

    def ours(dtype: Dtype, asked: Sequence[Question]) -> tuple[float, list[str]]:
        started_at = time.perf_counter()
        rows = answer_questions(
            models[dtype], asked, find, shards=exported.shards, tokenizer=exported.tokenizer,
            sizes=exported.settings.sizes,
        )  # fmt: skip
        return len(asked) / (time.perf_counter() - started_at), [str(row["prediction"]) for row in rows]

    found: Result = {side: [] for side in (*DTYPES, *MODES)}
    num_same, found["num_told"] = dict.fromkeys(DTYPES, 0), 0
    with Peer(Path(options["python"]), made, program="peer_qa.py") as peer:
        for dtype in DTYPES:
            ours(dtype, questions[:WARM_UP])
        for mode in MODES:
            peer.ask(f"{mode} 0 {WARM_UP}")
        for number in range(rounds):
            write_progress(folder, done=number, total=rounds, now="answering in turns")
            asked = questions[number * len(questions) // rounds : (number + 1) * len(questions) // rounds]
            said = {}
            for dtype in DTYPES:
                speed, said[dtype] = ours(dtype, asked)
                found[dtype].append(speed)
            for mode in MODES:
                first, count = number * len(questions) // rounds, min(len(asked), at_once[mode])
                told = peer.ask(f"{mode} {first} {first + count}")
                found[mode].append(count / told["took_s"])
                for dtype in DTYPES:
                    pairs = zip(said[dtype], told["answers"], strict=False)
                    num_same[dtype] += sum(alike(*pair, exported.tokenizer) for pair in pairs)
                found["num_told"] += count
    return found | {"num_same": num_same} | _facts(exported)


def alike(ours: str, theirs: str, tokenizer: Tokenizer) -> bool:
    """Whether two answers say the same, once normalised and without spaces: transformers says wordpieces, in lower case
    and with a space around every sign, so ours is taken as its wordpieces say it."""
    told = (tokenizer.decode(tokenizer.encode(ours)), theirs)
    return len({"".join(normalise(said).split()) for said in told}) == 1


def _make(export: Path, options: Options, folder: Path) -> Path:
    """Write an export over the Factbook, its weights and vectors drawn at random; returns the file of its questions."""
    data = folder / "data"
    prepare_demo(
        data, num_entities=options["entities"], passage_tokens=PASSAGE_TOKENS, vocab_size=options["vocabulary"],
        on_progress=lambda doing: write_progress(folder, done=0, total=1, now=doing),
    )  # fmt: skip
    tokenizer = load_tokenizer(data / "tokenizer")
    shards = open_shards(data / "corpus", kind="corpus", fingerprint=tokenizer.fingerprint)
    settings = AnswerSettings(
        sizes=ReadingSizes(question_tokens=QUESTION_TOKENS, passage_tokens=PASSAGE_TOKENS, read=READ),
        null_passage=False, temperature=1.0, tokenizer_fingerprint=tokenizer.fingerprint,
    )  # fmt: skip
    width = options["width"]
    write_qa_export(
        export, new_answerer({**options["network"], "vocabulary": tokenizer.vocab_size}, width=width), shards=shards,
        vectors=[VectorsOf(seed=0, width=width)(0, shards.count)], tokenizer_folder=data / "tokenizer",
        settings=settings,
    )  # fmt: skip
    return data / "qa" / "test.jsonl"


def _spread(questions: Sequence[Question], count: int) -> list[Question]:
    """So many of them from the whole file, or all."""
    return list(questions[:: max(1, len(questions) // count)][:count])


def _facts(exported: Exported) -> Result:
    sizes, lengths_N = exported.settings.sizes, exported.corpus.passages.body_lengths_N
    return {"passages": len(exported.corpus), "num_read": sizes.read, "wordpieces": float(lengths_N.mean())}
