"""Things to ask a model without thinking of any: questions that its run was asked, or beginnings of its own passages
with a word left out.
"""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from realm_ds.data.records import Passage
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.eval.exported import PASSAGES, TOKENIZER, read_settings
from realm_ds.explore.places import Choice
from realm_ds.explore.showing import MASK
from realm_ds.reports.demo import choose_examples

COUNT = 4
LOOKED_AT = 64
"""Passages from all over the corpus, of which the first that will do are taken."""
LONGEST = 110
"""Characters of a statement."""
_NAME = re.compile(r"(?<=[\w,:] )[A-Z][a-z]{3,}(?![\w-])")
"""A word with a capital that does not begin a sentence: what is worth asking for."""
_END = re.compile(r"[.;!?](?=\s|$)")


def examples_for(choice: Choice) -> list[str]:
    """A few, always the same; none where there is nothing to take them from."""
    export = choice.export
    return _asked(export.parent / "qa" / "dev.jsonl") if choice.answers_questions else _with_blanks(export)


def _asked(path: Path) -> list[str]:
    """Questions of different fields, those that were answered right first."""
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [str(row["question"]) for row in choose_examples(rows, right=COUNT, wrong=COUNT)][:COUNT]


def _with_blanks(export: Path) -> list[str]:
    shards = open_shards(export / PASSAGES, kind="corpus", fingerprint=None)
    tokenizer = load_tokenizer(export / TOKENIZER)
    places = dict.fromkeys(shards.count * number // LOOKED_AT for number in range(LOOKED_AT))
    passages = shards.passages_at(places)
    num_read = read_settings(export).sizes.question_tokens - 2
    statements = (statement for place in places for statement in _statement(passages[place], tokenizer))
    fitting = (of_one for of_one in statements if len(tokenizer.encode_questions([of_one])[0]) <= num_read)
    return list(islice(fitting, COUNT))


def _statement(passage: Passage, tokenizer: Tokenizer) -> Iterator[str]:
    """The beginning of a passage with its first name left out that is a word of the vocabulary."""
    for name in _NAME.finditer(passage.text, 0, LONGEST):
        if len(tokenizer.encode(name[0])) == 1 and name[0] not in passage.title:
            end = _END.search(passage.text, name.end())
            stop = end.end() if end is not None else len(passage.text)
            if stop <= LONGEST:
                yield f"{passage.text[: name.start()]}{MASK}{passage.text[name.end() : stop]}"
            return
