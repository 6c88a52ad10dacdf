"""Exports that open by themselves and answer: spans as they stand in passages, masked words against a double loop, the
verb from end to end, and bad input of every kind."""

import copy
import doctest
import io
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from realm_ds.cli.main import app
from realm_ds.data.batches import passage_batch
from realm_ds.data.shards import Shards
from realm_ds.data.tokenizer import train_wordpiece
from realm_ds.data.words import words_of
from realm_ds.errors import CheckpointError, ConfigError, DataError, RealmError
from realm_ds.eval import answerer
from realm_ds.eval.answerer import RealmForQA
from realm_ds.eval.cloze import RealmForCloze
from realm_ds.eval.corpus import embed_queries, embed_with, tensors
from realm_ds.eval.exported import (
    SETTINGS_FILE,
    open_export,
    write_qa_export,
)
from realm_ds.eval.pairs import joint_tokens
from realm_ds.eval.qa import answer_questions, by_tower
from realm_ds.eval.words import word_in
from realm_ds.launch.ask import ask, open_answerer
from realm_ds.models.qa import QaModel
from realm_ds.observe.answers import Answer, Answered, Source, show_answers
from realm_ds.sealed import MANIFEST, seal
from realm_ds.train.export import write_models
from tests.support.tiny_exports import SIZES, Exports, make_exports
from tests.support.tiny_qa import make_questions

QUESTIONS = ["What is the river of Ghent called?", "What is the tower of Kiel called?"]
STATEMENT = "the river of ghent is called [MASK]."


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return make_exports(tmp_path_factory.mktemp("exports"))


def copied(export: Path, to: Path) -> Path:
    """A copy to damage: of its own files, none linked to those of the corpus."""
    return Path(shutil.copytree(export, to / "copy"))


def run(*arguments: object, stdin: str | bytes = "") -> Result:
    result = CliRunner().invoke(app, ["ask", *map(str, arguments)], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_example_of_the_docstring_works_as_written(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    (exports.folder / "runs").mkdir()
    (exports.folder / "runs" / "qa").symlink_to(exports.qa.parent)
    monkeypatch.chdir(exports.folder)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(RealmForQA, "RealmForQA", module=answerer, globs={"RealmForQA": RealmForQA})
    assert doctest.DocTestRunner().run(example) == (0, 5)


def test_answers_are_distinct_spans_of_their_passages_as_the_evaluation_finds_them(exports: Exports) -> None:
    realm = RealmForQA.from_pretrained(exports.qa)
    opened = open_export(exports.qa)
    asked = make_questions(exports.folder)["test"]
    rows = answer_questions(
        QaModel.load(exports.qa), asked, by_tower(opened.corpus), shards=opened.shards, tokenizer=opened.tokenizer,
        sizes=SIZES,
    )  # fmt: skip
    passages = {passage.uid: passage for passage in exports.shards.passages()}
    together = realm.answer([question.question for question in asked], top=4)
    for question, row, answered in zip(asked, rows, together, strict=True):
        best, *others = answered.answers
        assert answered.question == question.question
        assert best.text == row["prediction"]
        assert len({answer.text for answer in answered.answers}) == 4
        p_of = {hit["uid"]: np.exp(hit["score"]) for hit in row["retrieved"][:3]}
        for answer in answered.answers:
            passage = passages[answer.passage.uid]
            assert answer.passage == Source(uid=passage.uid, title=passage.title, text=passage.text)
            assert answer.span is not None
            assert passage.text[slice(*answer.span)] == answer.text
            assert answer.p_passage == pytest.approx(p_of[passage.uid] / sum(p_of.values()), rel=1e-4)
        shares = [answer.p for answer in answered.answers]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 + 1e-6
        for answer in others:
            if answer.passage == best.passage and answer.span is not None and best.span is not None:
                assert answer.span[1] <= best.span[0] or best.span[1] <= answer.span[0]
    for question, answered in zip(asked, together, strict=True):
        (alone,) = realm.answer(question.question, top=1)
        assert alone.answers[0].text == answered.answers[0].text


def test_a_masked_word_is_filled_in_by_the_sum_over_passages(exports: Exports) -> None:
    (answered,) = RealmForCloze.from_pretrained(exports.cloze).answer([STATEMENT], top=3)
    realm, tokenizer, sizes = exports.realm, exports.tokenizer, SIZES
    opened = open_export(exports.cloze)
    (ids,) = tokenizer.encode_questions([STATEMENT])
    query_P = embed_queries(realm.query_tower, [ids], special=tokenizer.special, max_tokens=16)[0]
    null_P = embed_with(realm.passage_tower)(passage_batch([((), ())], special=tokenizer.special, max_tokens=32))[0]
    passages = list(exports.shards.passages())
    places = np.argsort(-(opened.corpus.vectors_NP @ query_P))[:3]
    scores = [float(query_P @ null_P), *(float(opened.corpus.vectors_NP[place] @ query_P) for place in places)]
    weights = np.exp(np.array(scores) / 0.5)
    weights /= weights.sum()
    p_V, through = np.zeros(tokenizer.vocab_size), []
    for weight, body in zip(weights, [(), *(passages[place].body_ids for place in places)], strict=True):
        tokens, _ = joint_tokens([(ids, body)], special=tokenizer.special, sizes=sizes)
        place = tokens.ids_BL[0].tolist().index(tokenizer.special.mask)
        logits = realm.encoder.logits(tensors(tokens, torch.device("cpu")), torch.tensor([[place]]))[0, 0]
        through.append(weight * logits.softmax(-1).detach().numpy())
        p_V += through[-1]
    pieces = tokenizer.tokens(range(tokenizer.vocab_size))
    words = [word for word in np.argsort(-p_V) if pieces[word][:2] != "##" and pieces[word][:1] != "["][:3]
    assert [answer.text.lower() for answer in answered.answers] == [pieces[word] for word in words]
    for word, answer in zip(words, answered.answers, strict=True):
        assert answer.p == pytest.approx(p_V[word], rel=1e-4)
        best = int(np.argmax([part[word] for part in through[1:]]))
        assert answer.passage.uid == passages[places[best]].uid
        assert answer.p_passage == pytest.approx(weights[1 + best], rel=1e-4)
        assert answer.span is None or answer.passage.text[slice(*answer.span)] == answer.text


def test_an_export_in_16_bits_answers_in_float32(exports: Exports, tmp_path: Path) -> None:
    """As one of the same rounded weights does: what is computed in 16 bits would be another answer."""
    rounded = copy.deepcopy(exports.realm)
    told = []
    for name, dtype in (("narrow", torch.bfloat16), ("wide", torch.float32)):
        folder = copied(exports.cloze, tmp_path / name)
        write_models(rounded.to(torch.bfloat16).to(dtype), folder, tokenizer_folder=exports.folder / "tokenizer")
        (folder / MANIFEST).unlink()
        seal(folder, source="step-9")
        told.append(RealmForCloze.from_pretrained(folder).answer([STATEMENT], top=3))
    assert told[0] == told[1]


def test_a_word_that_its_passage_holds_is_marked_there(exports: Exports) -> None:
    tools = {"tokenizer": exports.tokenizer, "words": words_of(exports.tokenizer)}
    passage = replace(next(exports.shards.passages()), text="Arlon has a Mayor.")
    passage = replace(passage, body_ids=tuple(exports.tokenizer.encode(passage.text)))
    (mayor,), (ghent,) = exports.tokenizer.encode_all(["mayor", "ghent"])
    assert word_in(passage, mayor, **tools) == ("Mayor", (12, 17))
    assert word_in(passage, ghent, **tools) == ("ghent", None)


BAD: dict[str, tuple[object, str]] = {
    "nothing": ("", "the question is empty"),
    "white space": (" \n\t", "the question is empty"),
    "no text": (7, "a question is a text, not of the type int"),
    "nothing at all": (None, "a question is a text, not of the type NoneType"),
    "half a pair": ("\ud800 what", r"'\ud800' is no character: half a surrogate pair, or a byte that is not UTF-8"),
    "control characters": ("\x00\x07\x1b", "nothing in it is a word"),
    "no wordpieces": ("☃ ☂ 天", "none of its words is made of wordpieces of the model's vocabulary"),
    "a file gone astray": ("word " * 30_000, "150,000 characters are no question: at most 100,000"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_question_is_told_and_stops_no_other(exports: Exports, name: str) -> None:
    question, problem = BAD[name]
    realm = RealmForQA.from_pretrained(exports.qa)
    first, bad, last = realm.answer_each([QUESTIONS[0], question, QUESTIONS[1]])
    assert bad.problem == problem
    assert not bad.answers
    assert [first, last] == realm.answer(QUESTIONS)
    assert len(bad.question) < 300


def test_ten_thousand_words_are_read_as_far_as_training_would_and_that_is_told(exports: Exports) -> None:
    realm = RealmForQA.from_pretrained(exports.qa)
    (long,) = realm.answer(["ghent " * 10_000])
    (short,) = realm.answer(["ghent " * 14])
    assert long.remark == "only the first 14 of its 10,000 wordpieces were read"
    assert long.answers == short.answers
    assert not short.remark


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("the river of ghent", "no [MASK]"),
        ("the [MASK] of [MASK]", "2 [MASK]"),
        ("the river " * 9 + "[MASK]", "no [MASK] in the first 14 wordpieces, which alone are read"),
    ],
)
def test_a_statement_has_one_mask(exports: Exports, statement: str, found: str) -> None:
    (answered,) = RealmForCloze.from_pretrained(exports.cloze).answer([statement])
    assert answered.problem.startswith(f"{found}, but a pre-trained model fills in exactly one")


def test_a_mask_alone_says_nothing(exports: Exports) -> None:
    (answered,) = RealmForCloze.from_pretrained(exports.cloze).answer(["[MASK]"])
    assert answered.problem == "nothing in it is a word"


def test_at_least_one_answer_is_asked_for(exports: Exports) -> None:
    with pytest.raises(ConfigError, match="top=0: ask for at least one answer"):
        RealmForQA.from_pretrained(exports.qa).answer(QUESTIONS, top=0)


def test_an_export_moved_away_from_everything_answers_the_same(exports: Exports, tmp_path: Path) -> None:
    export = copied(exports.qa, tmp_path)
    put_beside(export)
    moved = RealmForQA.from_pretrained(export)
    assert moved.answer(QUESTIONS) == RealmForQA.from_pretrained(exports.qa).answer(QUESTIONS)


def put_beside(export: Path) -> None:
    """What a hub and people leave in a folder."""
    for name in (".gitattributes", ".cache/huggingface/download/a.lock", "LICENSE"):
        (export / name).parent.mkdir(parents=True, exist_ok=True)
        (export / name).touch()


def remove_manifest(export: Path) -> None:
    (export / "manifest.json").unlink()


def remove_weights(export: Path) -> None:
    (export / "reader" / "model.safetensors").unlink()


def flip_weights(export: Path) -> None:
    path = export / "reader" / "span_scorer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def flip_vectors(export: Path) -> None:
    (path,) = (export / "index").rglob("*.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_passages(export: Path) -> None:
    path = export / "passages" / "shard-00001.tar"
    os.truncate(path, 5000)


def flip_passages(export: Path) -> None:
    path = export / "passages" / "shard-00001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


def no_passages(export: Path) -> None:
    path = export / "passages" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"count": 0, "shards": []}))


def no_index(export: Path) -> None:
    for path in (export / "index").rglob("part-*"):
        path.unlink()
    reseal(export)


def other_settings(export: Path) -> None:
    (export / SETTINGS_FILE).write_text('{"sizes": {}}')
    reseal(export)


def other_tokenizer(export: Path) -> None:
    train_wordpiece(["the tower is in ghent"], vocab_size=150, folder=export / "tokenizer")
    reseal(export)


def reseal(export: Path) -> None:
    remove_manifest(export)
    seal(export, kind="qa")


@pytest.mark.parametrize(
    ("damage", "error", "told"),
    [
        (remove_manifest, CheckpointError, r"no whole export: .*manifest.json cannot be read .*; export the run again"),
        (remove_weights, CheckpointError, r"no whole export: .*reader/model.safetensors is missing; export the run"),
        (flip_weights, CheckpointError, r"no whole export: .*span_scorer.safetensors is damaged"),
        (flip_vectors, CheckpointError, r"the vectors in .*index are damaged, or not of the 72 passages beside them"),
        (cut_passages, DataError, r"shard-00001.tar: 5000 bytes, but manifest.json says"),
        (flip_passages, DataError, r"shard-00001.tar: sha256 is"),
        (no_passages, DataError, r"passages/manifest.json: the corpus is empty"),
        (no_index, CheckpointError, r"the index in .*index is empty; export the run again"),
        (other_settings, CheckpointError, r"answering.json cannot be read"),
        (other_tokenizer, CheckpointError, r"tokenizer is not the tokenizer that the models beside it were trained"),
    ],
)
def test_a_damaged_export_says_what_is_wrong(
    exports: Exports, tmp_path: Path, damage: object, error: type[RealmError], told: str
) -> None:
    export = copied(exports.qa, tmp_path)
    damage(export)  # type: ignore[operator]
    with pytest.raises(error, match=told):
        RealmForQA.from_pretrained(export)


def test_a_folder_without_an_export_says_where_one_is(exports: Exports, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no folder {tmp_path / 'nowhere'}: name an export"):
        open_export(tmp_path / "nowhere")
    with pytest.raises(
        CheckpointError, match=r"holds no export .*: `realm-ds export --run RUN` .* goes on with --resume"
    ):
        open_export(tmp_path)
    (tmp_path / "demo" / "pretrain").mkdir(parents=True)
    (tmp_path / "demo" / "pretrain" / "export").symlink_to(exports.cloze)
    with pytest.raises(CheckpointError, match=r"with answering.json: name one of \S+/demo/pretrain/export$"):
        open_export(tmp_path / "demo")
    (tmp_path / "demo" / "qa").symlink_to(exports.qa.parent)  # of all the demo's runs this is what answers
    with pytest.raises(CheckpointError, match=rf"with answering.json: did you mean {tmp_path}/demo/qa\?"):
        open_export(tmp_path / "demo")
    with pytest.raises(CheckpointError, match="has no reader: it is not fine-tuned; run `realm-ds qa train` from it"):
        RealmForQA.from_pretrained(exports.cloze)
    with pytest.raises(ConfigError, match=r"--dtype bf16 is for models that answer .* fills in \[MASK\]: leave it out"):
        open_answerer(exports.cloze, dtype="bf16")
    with pytest.raises(CheckpointError, match="has no encoder: only an export of pre-training fills in masks"):
        RealmForCloze.from_pretrained(exports.qa)


def test_an_export_that_cannot_be_written_leaves_the_old_one(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = copied(exports.qa, tmp_path)
    opened = open_export(export)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Shards, "copy_to", full)
    with pytest.raises(CheckpointError, match=r"cannot write the export to .*No space left.*go on with --resume"):
        write_qa_export(
            export, QaModel.load(export), shards=opened.shards,
            vectors=[opened.corpus.vectors_NP], tokenizer_folder=export / "tokenizer", settings=opened.settings,
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    open_export(export)


def test_the_verb_answers_with_the_span_marked_and_the_runners_up(exports: Exports) -> None:
    result = run(*QUESTIONS, "--model", exports.qa.parent, "--top", 3)
    assert result.exit_code == 0
    for answered in RealmForQA.from_pretrained(exports.qa).answer(QUESTIONS, top=3):
        best, *others = answered.answers
        assert f"{answered.question}\n  {best.text}  {best.p:.1%}\n" in result.output
        assert f"    {best.passage.title}, p(z|x) {best.p_passage:.1%}\n" in result.output
        assert f"«{best.text}»" in " ".join(result.output.split())
        for answer in others:
            assert f"  or {answer.text}  {answer.p:.1%}  ({answer.passage.title}" in result.output


def test_the_verb_fills_in_masks_from_standard_input(exports: Exports) -> None:
    result = run("--model", exports.cloze, "--json", "--top", 2, stdin=f"{STATEMENT}\n\n")
    assert result.exit_code == 0
    (answered,) = RealmForCloze.from_pretrained(exports.cloze).answer([STATEMENT], top=2)
    told = json.loads(result.stdout)
    assert told["question"] == STATEMENT
    assert told["answers"] == json.loads(json.dumps([asdict(answer) for answer in answered.answers]))


def test_many_questions_come_and_go_as_json_lines_and_bad_ones_stop_none(exports: Exports, tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": 7, "question": QUESTIONS[0]}), "", "{", '{"question": 3}', "[]", '{"question": "\\u0000"}',
        json.dumps({"question": QUESTIONS[1]}), '{"question": null, "id": "\\udc00"}', '{"question": "caf\udcff"}',
    ]  # fmt: skip
    path = tmp_path / "asked.jsonl"
    path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    result = run("--jsonl", path, "--model", exports.qa)
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [row.get("id") for row in told] == ["7", None, None, None, None, None, "\udc00", None]
    assert [bool(row["answers"]) for row in told] == [True, False, False, False, False, True, False, False]
    assert told[1]["problem"].startswith(f"{path}:3: not JSON")
    assert told[2]["problem"] == f'{path}:4: does not look like {{"question": TEXT}}'
    assert told[3]["problem"] == f'{path}:5: does not look like {{"question": TEXT}}'
    assert told[4]["problem"] == f"{path}:6: nothing in it is a word"
    assert (told[6]["question"], told[6]["problem"]) == ("", f'{path}:8: does not look like {{"question": TEXT}}')
    assert (told[7]["question"], told[7]["problem"].split(" is ")[0]) == ("caf\udcff", f"{path}:9: '\\udcff'")
    assert "6 of 8 questions skipped" in result.stderr
    from_stdin = run("--jsonl", "-", "--model", exports.qa, stdin=path.read_bytes())
    assert from_stdin.stdout.replace("standard input:", f"{path}:") == result.stdout


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "told"),
    [
        (("",), "", 1, "1 of 1 question skipped"),
        ((), "", 1, "there was no question to answer"),
        (("what", "--jsonl", "x.jsonl"), "", 2, "give questions or --jsonl, not both"),
        (("--jsonl", "/no/such/file"), "", 1, "cannot use /no/such/file: No such file"),
    ],
)
def test_what_cannot_be_asked_is_an_exit_code(
    exports: Exports, arguments: tuple[str, ...], stdin: str, code: int, told: str
) -> None:
    result = run(*arguments, "--model", exports.qa, stdin=stdin)
    assert (result.exit_code, told in result.stderr) == (code, True), result.stderr


def test_what_a_passage_says_means_nothing_to_the_terminal() -> None:
    source = Source(uid=1, title="[bold]T\x1b[2J", text="a \x1b]0;b [red]c")
    answer = Answer(text="\x1b]0;b", p=0.5, p_passage=1.0, passage=source, span=(2, 7))
    out = io.StringIO()
    show_answers(Answered(question="q\x07", answers=(answer,), remark="cut"), out=out)
    assert out.getvalue() == (
        "q\\x07\n  cut\n  \\x1b]0;b  50.0%\n    [bold]T\\x1b[2J, p(z|x) 100.0%\n    a «\\x1b]0;b» [red]c\n\n"
    )


def test_a_passage_without_a_title_has_none() -> None:
    answer = Answer(text="a", p=0.5, p_passage=1.0, passage=Source(uid=1, title="", text="a"), span=None)
    out = io.StringIO()
    show_answers(Answered(question="q", answers=(answer, answer)), out=out)
    assert out.getvalue() == "q\n  a  50.0%\n    p(z|x) 100.0%\n    a\n  or a  50.0%  (p(z|x) 100.0%)\n\n"


def test_at_a_terminal_where_nothing_is_asked_it_does_not_wait(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(ConfigError, match="nothing is asked: give a question, --jsonl FILE, or questions on standard"):
        ask(exports.qa, questions=[], file=None, top=1, as_json=False)
