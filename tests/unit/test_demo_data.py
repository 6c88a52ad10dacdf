"""The demo's data on disk, of a few entities: whole, split without leaks, and the same bytes every time."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from realm_ds.data.question_files import load_questions
from realm_ds.data.records import NO_UID, Example, Passage, Question, passage_uid
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import ConfigError, DataError
from realm_ds.factbook.entities import load_entities
from realm_ds.factbook.facts import normal, says
from realm_ds.factbook.prepare import check_is_free, choose_entities, prepare_demo

NUM_ENTITIES = 14
MAX_TOKENS = 64


class Prepared:
    """What one run of prepare_demo wrote, read back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.doings: list[str] = []
        self.result: dict[str, Any] = prepare_demo(
            folder, seed=5, vocab_size=3000, num_entities=NUM_ENTITIES, on_progress=self.doings.append
        )
        self.tokenizer: Tokenizer = load_tokenizer(folder / "tokenizer")
        fingerprint = self.tokenizer.fingerprint
        corpus = open_shards(folder / "corpus", kind="corpus", fingerprint=fingerprint)
        self.passages: list[Passage] = list(corpus.passages(max_tokens=MAX_TOKENS))
        self.examples, self.held_out = (self._examples(folder / name) for name in ("pretrain", "held_out"))
        self.questions = {name: load_questions(folder / "qa" / f"{name}.jsonl") for name in ("train", "dev", "test")}
        self.statements = {name: load_questions(folder / "qa" / f"statements.{name}.jsonl") for name in ("dev", "test")}
        self.by_uid = {passage.uid: passage for passage in self.passages}

    def _examples(self, folder: Path) -> list[Example]:
        return list(open_shards(folder, kind="pretrain", fingerprint=self.tokenizer.fingerprint).examples())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("data"))


def key(record: Question | Example) -> tuple[str, str]:
    """(entity, field) of a question or statement."""
    entity, field, _ = record.id.rsplit("/", 2)
    return entity, field


def test_the_counts_are_of_what_was_written(prepared: Prepared) -> None:
    result = prepared.result
    corpus = open_shards(prepared.folder / "corpus", kind="corpus", fingerprint=None)
    assert corpus.manifest.settings["passage_tokens"] == MAX_TOKENS
    assert json.loads((prepared.folder / "prepared.json").read_text()) == result
    assert result["passages"] == len(prepared.passages) > 200
    assert result["examples"] == len(prepared.examples)
    assert result["held_out"] == len(prepared.held_out) == result["statements"]["dev"] > 10
    assert result["examples_from_prose"] == sum(example.origin_uid != NO_UID for example in prepared.examples) > 20
    assert result["questions"] == {name: len(asked) for name, asked in prepared.questions.items()}
    assert result["statements"]["test"] == len(prepared.statements["test"]) > 20
    assert result["vocabulary"] == prepared.tokenizer.vocab_size
    assert all(count > 0 for count in result["dropped"].values())
    assert len(set(prepared.doings)) == len(prepared.doings) > 4


def test_passages_are_what_their_text_says(prepared: Prepared) -> None:
    assert len(prepared.by_uid) == len(prepared.passages)
    for passage in prepared.passages:
        assert passage.uid == passage_uid(passage.title, passage.text)
        assert list(passage.body_ids) == prepared.tokenizer.encode(passage.text)
        assert passage.title.startswith(passage.article)
        assert passage.text.startswith(passage.article)  # readers do not see the title
        assert passage.sentences[0][0] == 0
        assert passage.sentences[-1][1] == len(passage.body_ids)


def test_no_entity_and_field_is_in_two_splits(prepared: Prepared) -> None:
    said = {key(example) for example in prepared.examples if example.origin_uid == NO_UID}
    keys = {name: {key(question) for question in asked} for name, asked in prepared.questions.items()}
    keys["train"] |= said
    for name, statements in prepared.statements.items():
        keys[name] |= {key(statement) for statement in statements}
    assert not keys["train"] & keys["dev"]
    assert not keys["train"] & keys["test"]
    assert not keys["dev"] & keys["test"]


def test_what_is_held_out_are_the_dev_statements_and_no_others(prepared: Prepared) -> None:
    """That dev statements tell nothing that training does is the next test's."""
    trained_on = {item.id for item in prepared.examples}
    mask = prepared.tokenizer.special.mask
    for example, masked in zip(prepared.held_out, prepared.statements["dev"], strict=True):
        assert example.id == masked.id
        ((start, end),) = example.spans
        hidden = (*example.ids[:start], *[mask] * (end - start), *example.ids[end:])
        assert [list(hidden)] == prepared.tokenizer.encode_questions([masked.question])
        assert example.id not in trained_on


def test_nothing_in_training_names_a_held_out_entity_and_its_answer(prepared: Prepared) -> None:
    """Brute force, over every text of training and every held-out statement."""
    texts = [normal(example.text) for example in prepared.examples]
    texts += [normal(" ".join([asked.question, *asked.answers])) for asked in prepared.questions["train"]]
    for statement in prepared.statements["dev"] + prepared.statements["test"]:
        subjects = key(statement)[0].split(" and ") if key(statement)[1] == "border length" else [key(statement)[0]]
        (answer,) = statement.answers
        for text in texts:
            told = all(says(text, subject) for subject in subjects) and says(text, answer)
            assert not told or says(normal(subjects[0]), answer), (statement, text)


def test_prose_of_gold_passages_of_held_out_facts_is_not_trained_on(prepared: Prepared) -> None:
    held_out = {uid for name in ("dev", "test") for asked in prepared.questions[name] for uid in asked.gold_uids}
    assert not held_out & {example.origin_uid for example in prepared.examples}


def test_gold_passages_hold_an_answer_in_wordpieces(prepared: Prepared) -> None:
    def joined(ids: Any) -> str:
        return f" {' '.join(map(str, ids))} "

    for question in itertools.chain(*prepared.questions.values(), *prepared.statements.values()):
        assert question.gold_uids
        wanted = [joined(prepared.tokenizer.encode(answer)) for answer in question.answers]
        for uid in question.gold_uids:
            assert any(answer in joined(prepared.by_uid[uid].body_ids) for answer in wanted)


def test_masked_statements_have_a_mask_for_each_wordpiece(prepared: Prepared) -> None:
    mask = prepared.tokenizer.special.mask
    for statement in prepared.statements["test"]:
        (ids,) = prepared.tokenizer.encode_questions([statement.question])
        assert ids.count(mask) == len(prepared.tokenizer.encode(statement.answers[0]))


def test_spans_of_examples_cover_whole_words(prepared: Prepared) -> None:
    for example in prepared.examples:
        assert example.spans
        assert list(example.ids) == prepared.tokenizer.encode(example.text)
        pieces = prepared.tokenizer.tokens(example.ids)
        for start, end in example.spans:
            assert not pieces[start].startswith("##")
            assert end == len(pieces) or not pieces[end].startswith("##")


def test_every_prose_example_knows_its_passage(prepared: Prepared) -> None:
    for example in prepared.examples:
        if example.origin_uid != NO_UID:
            article = prepared.by_uid[example.origin_uid].article
            assert says(normal(example.text), article)


def test_another_process_writes_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from realm_ds.factbook.prepare import prepare_demo; "
        f"prepare_demo(Path(sys.argv[1]), seed=5, vocab_size=3000, num_entities={NUM_ENTITIES})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=root, env=environment, timeout=300)

    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files(tmp_path) == files(prepared.folder)


def test_entities_are_drawn_by_seed() -> None:
    entities = load_entities()
    assert choose_entities(entities, None, seed=0) == entities
    few = choose_entities(entities, 10, seed=0)
    assert len(few) == 10
    assert few == choose_entities(entities, 10, seed=0)
    assert few != choose_entities(entities, 10, seed=1)
    with pytest.raises(DataError, match=r"num_entities=1000: choose 1 to \d+, the entities with text enough"):
        choose_entities(entities, 1000, seed=0)


@pytest.mark.parametrize("size", [20, 300])
def test_a_passage_length_that_cannot_be(size: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"passage_tokens={size}: choose one from 48 to 288 wordpieces"):
        prepare_demo(tmp_path, passage_tokens=size)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write .*file.*choose another folder"):
        prepare_demo(tmp_path / "file", num_entities=2)


def test_data_of_earlier_work_is_not_overwritten(tmp_path: Path) -> None:
    check_is_free(tmp_path)
    check_is_free(tmp_path / "new")
    (tmp_path / "corpus").mkdir()
    with pytest.raises(ConfigError, match=rf"{tmp_path} holds files already, which .* not overwritten: name another"):
        check_is_free(tmp_path)
    (tmp_path / "prepared.json").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path} holds data prepared before"):
        check_is_free(tmp_path)
    with pytest.raises(ConfigError, match="holds files already"):
        check_is_free(tmp_path / "prepared.json")
