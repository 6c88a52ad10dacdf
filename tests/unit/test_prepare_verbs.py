"""`prepare qa`, `tokenizer` and `inspect` from end to end, on files of a few lines."""

import bz2
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.data.question_files import load_questions
from realm_ds.data.records import Question
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.prepare.coverage import AnswerSearch
from realm_ds.prepare.documents import Document
from realm_ds.prepare.vocabulary import texts_of
from tests.support.records import make_passage, write_corpus
from tests.support.tiny import make_data


def _run(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "nq.jsonl"
    path.write_text("".join(json.dumps({"question": f"q {n}", "answer": [f"text {n}"]}) + "\n" for n in range(30)))
    return path


def test_question_files_with_coverage(tmp_path: Path, questions: Path) -> None:
    corpus = tmp_path / "corpus"
    write_corpus(corpus, [make_passage(number) for number in range(12)])
    out = tmp_path / "qa"
    code, said, progress = _run("qa", questions, "--out", out, "--split", "test", "--corpus", corpus, "--link", 1,
                                "--workers", 1)  # fmt: skip
    assert code == 0
    assert said.splitlines() == [
        "test: 30 questions",
        "test: 12 of 30 questions (40.0%) have an answer in some of 12 passages",
        "test: 12 questions linked to passages that hold an answer, as weak labels",
        f"{out}/prepared.json says what is there",
    ]
    assert "looking for answers: 12 passages" in progress
    assert [question.gold_uids for question in load_questions(out / "test.jsonl")][10:13] == [(11,), (12,), ()]
    code, said, progress = _run("qa", questions, "--out", out, "--split", "test", "--corpus", corpus, "--link", 1,
                                "--resume")  # fmt: skip
    assert (code, said.splitlines()[-1]) == (0, f"{out}/prepared.json says what is there, done before")
    assert "looking for answers: 12 passages, done before" in progress
    code, said, _ = _run("qa", questions, "--out", out, "--split-rule", "farmhash")
    assert code == 0
    assert any(line.startswith("train: questions that are also in test: ") for line in said.splitlines())
    assert sorted(path.name for path in out.iterdir()) == ["dev.jsonl", "prepared.json", "test.jsonl", "train.jsonl"]


def test_a_dry_run_of_questions_writes_nothing(tmp_path: Path, questions: Path) -> None:
    corpus = tmp_path / "corpus"
    write_corpus(corpus, [make_passage(number) for number in range(12)])
    code, said, _ = _run("qa", questions, "--out", tmp_path / "qa", "--split", "dev", "--corpus", corpus, "--dry-run")
    assert code == 0
    assert "looking for answers in 12 passages takes about " in said
    assert said.endswith(f"nothing was written to {tmp_path}/qa\n")
    assert not (tmp_path / "qa").exists()


def test_regexes_that_are_to_train_are_remarked_upon(tmp_path: Path) -> None:
    (tmp_path / "trec.jsonl").write_text('{"question": "q", "answer": ["a|b"]}\n{\n')
    _, said, _ = _run("qa", tmp_path / "trec.jsonl", "--out", tmp_path / "qa", "--split", "train")
    assert said.splitlines()[:3] == [
        "train: 1 question, 1 with regex answers",
        "    a reader cannot be trained on regex answers: they only score predictions",
        "    lines that are no JSON, or too long, left out: 1 (first: trec.jsonl:2)",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "say which split these are (--split test), or by which rule to split (--split-rule farmhash)"),
        (
            ["--split", "dev", "--split-rule", "farmhash"],
            2,
            "--split dev and --split-rule farmhash say two things: leave one out",
        ),
        (
            ["--split", "dev", "--link", "2", "--workers", "7"],
            2,
            "--link, --workers would be ignored: there are no passages to search or link to; name some with --corpus",
        ),
        (["--split", "dev", "--corpus", "pipe:cat x"], 2, "'pipe:cat x' runs one command whatever the file: write {na"),
        (
            ["--split", "dev", "--answers-field", "a"],
            2,
            "--answers-field a would be ignored: nq.jsonl is read as nq_open, which has names of its own; leave that",
        ),
        (["--split", "dev", "--corpus", "nowhere"], 1, "no folder nowhere of corpus tar shards"),
    ],
)
def test_what_cannot_be_asked_of_questions(
    tmp_path: Path, questions: Path, arguments: list[str], code: int, message: str
) -> None:
    found = _run("qa", questions, "--out", tmp_path / "qa", *arguments)
    assert found[0] == code
    assert message in found[2]
    assert not (tmp_path / "qa").exists()


def _texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"title": "Lima", "text": "The capital of Peru is Lima."}\n' * 20)
    return path


def test_a_vocabulary_is_trained_and_taken(tmp_path: Path) -> None:
    texts, trained = _texts(tmp_path), tmp_path / "a"
    code, said, progress = _run("tokenizer", texts, "--out", trained, "--vocab-size", 150, "--cased")
    tokenizer = load_tokenizer(trained)
    assert (code, tokenizer.tokens(tokenizer.encode("Lima lima"))[0]) == (0, "Lima")
    told = f"{tokenizer.vocab_size} wordpieces, fingerprint {tokenizer.fingerprint}\n"
    assert said.startswith(f"{trained}: {told}    fewer than the 150 asked for: every word of this text is a wordpiece")
    assert "reading: 560 characters of 20 documents taken to train on" in progress
    assert _run("tokenizer", "--from", trained, "--out", tmp_path / "b", "--dry-run") == (0, f"{trained}: {told}", "")
    assert not (tmp_path / "b").exists()
    assert _run("tokenizer", "--from", trained, "--out", tmp_path / "b") == (0, f"{tmp_path}/b: {told}", "")
    assert (tmp_path / "b" / "vocab.txt").read_bytes() == (trained / "vocab.txt").read_bytes()
    code, _, said = _run("tokenizer", texts, "--out", trained, "--vocab-size", 150)
    assert (code, "a holds a tokenizer already" in said) == (2, True)
    done = told.replace("\n", ", done before\n")
    assert _run("tokenizer", texts, "--out", trained, "--vocab-size", 150, "--cased", "--resume") == (
        0, f"{trained}: {done}", "",
    )  # fmt: skip
    assert _run("tokenizer", "--from", trained, "--out", tmp_path / "b", "--resume")[1] == f"{tmp_path}/b: {done}"
    code, _, said = _run("tokenizer", texts, "--out", trained, "--vocab-size", 150, "--resume")
    assert (code, "settings.cased was True and is now False; give what it was begun with" in said) == (2, True)


def test_a_dry_run_of_a_vocabulary(tmp_path: Path) -> None:
    code, said, _ = _run(
        "tokenizer", _texts(tmp_path), "--out", tmp_path / "a", "--sample-characters", 2_000_000, "--workers", 3,
        "--dry-run",
    )  # fmt: skip
    assert code == 0
    assert said.splitlines() == [
        "read for this: all of texts.jsonl: 20 documents, 560 characters",
        "about 560 characters in all, read in 0s",
        "then a vocabulary of 30,522 wordpieces is trained on 560 characters, in about 0s with --workers 3",
        "disk   about 733 kB",
    ]
    assert not (tmp_path / "a").exists()


def test_a_dry_run_of_a_vocabulary_takes_no_longer_than_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realm_ds.prepare.vocabulary_verb.SAMPLE_S", 0.0)
    given = ("tokenizer", "-", "--format", "text", "--vocab-size", 120, "--workers", 1, "--dry-run")
    code, said, _ = _run(*given, "--out", tmp_path / "a", stdin="Lima is in Peru.")
    read, trained, disk = said.splitlines()
    assert (code, read) == (0, "read for this: the beginning of stdin: 1 document, 16 characters")
    assert trained.startswith("then a vocabulary of 120 wordpieces is trained on 268.4M characters at most, in about ")
    assert disk == "disk   about 2.88 kB"


def test_a_dry_run_of_a_vocabulary_of_no_words(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text("")
    code, said, _ = _run("tokenizer", tmp_path / "texts.jsonl", "--out", tmp_path / "a", "--dry-run")
    assert (code, said.splitlines()[2]) == (
        0, "then a vocabulary of 30,522 wordpieces is trained; there were no words to tell by how long that takes",
    )  # fmt: skip


def _verbs(tmp_path: Path, questions: Path) -> list[list[object]]:
    """Of each verb one that works, as its first argument names it; the vocabulary comes first."""
    texts, tokenizer = _texts(tmp_path), tmp_path / "tokenizer"
    cut: list[object] = ["--tokenizer", tokenizer, "--workers", 1]
    return [
        ["tokenizer", texts, "--vocab-size", 150, "--out", tokenizer],
        ["corpus", texts, *cut, "--out", tmp_path / "corpus"],
        ["pretrain", texts, *cut, "--out", tmp_path / "pretrain", "--spans", "rules"],
        ["qa", questions, "--split", "dev", "--out", tmp_path / "qa"],
    ]


def test_a_dry_run_refuses_what_the_verb_itself_does(tmp_path: Path, questions: Path) -> None:
    for given in _verbs(tmp_path, questions):
        code, _, told = _run(*given)
        assert code == 0, told
        refused = _run(*given)
        assert refused[0] == 2
        code, said, told = _run(*given, "--dry-run")
        assert (code, refused[2].endswith(told), told.startswith("realm-ds: ")) == (2, True, True)
        assert "read for this" not in said
        assert _run(*given, "--dry-run", "--resume")[0] == 0


def test_what_stdin_gives_is_not_taken_for_what_it_gave(tmp_path: Path, questions: Path) -> None:
    for name, texts, *given in _verbs(tmp_path, questions)[:3]:
        line = (name, "-", *given, "--format", "jsonl", "--resume")
        text = Path(str(texts)).read_text()
        code, _, told = _run(*line, stdin=text)
        assert code == 0, told  # nothing was there
        for options in ([], ["--dry-run"]):
            code, _, told = _run(*line, *options, stdin=text)
            assert (code, "what stdin or a pipe gives cannot be compared with what was read then" in told) == (2, True)


def test_what_has_no_effect_on_a_look_at_shards(tmp_path: Path) -> None:
    code, _, told = _run("inspect", tmp_path, "--workers", 2)
    assert (code, told.startswith("realm-ds: --workers would be ignored: without --all, --check or --dup")) == (2, True)


def test_an_estimate_looks_for_as_many_passages_as_are_linked(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Search(AnswerSearch):
        def __init__(self, questions: Sequence[Question], *, most: int) -> None:
            asked.append(most)
            super().__init__(questions, most=most)

    monkeypatch.setattr("realm_ds.prepare.qa_verb.AnswerSearch", Search)
    write_corpus(tmp_path / "corpus", [make_passage(1)])
    given = ("qa", questions, "--out", tmp_path / "qa", "--split", "dev", "--corpus", tmp_path / "corpus", "--dry-run")
    for options in ([], ["--link", 3]):
        assert _run(*given, *options)[0] == 0
    assert asked == [1, 3]


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_size_that_cannot_be_is_refused_before_anything_is_read(tmp_path: Path, options: list[str]) -> None:
    code, said, told = _run("tokenizer", _texts(tmp_path), "--out", tmp_path / "a", "--vocab-size", 70000, *options)
    assert (code, said) == (2, "")
    assert told == "realm-ds: vocab_size=70000: choose one from 105 to 65536\n"


def test_what_cannot_be_asked_of_a_vocabulary(tmp_path: Path) -> None:
    for arguments in ([], [_texts(tmp_path), "--from", tmp_path]):
        code, _, said = _run("tokenizer", *arguments, "--out", tmp_path / "a")
        assert (code, "give texts to train on (INPUT...) or a tokenizer to take (--from FOLDER), one of" in said) == (
            2, True,
        )  # fmt: skip


def test_what_has_no_effect_on_a_tokenizer_that_is_taken(tmp_path: Path) -> None:
    code, _, said = _run("tokenizer", "--from", "t", "--out", tmp_path / "a", "--cased", "--vocab-size", 30_522)
    told = "--vocab-size, --cased would be ignored: --from takes a tokenizer as it is; leave that out, or give INPUT..."
    assert (code, said) == (2, f"realm-ds: {told} to train on\n")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_prose_of_wikitext_is_trained_on(workers: int) -> None:
    documents = [
        Document(
            id=str(n), title=f"T{n}", text=f"'''Lima''' {n} is [[Peru|here]].{{{{x}}}}", markup="wikitext", where=""
        )
        for n in range(150)
    ]
    wanted = [text for n in range(150) for text in (f"T{n}", f"Lima {n} is here.")]
    assert list(texts_of(documents, workers=workers)) == wanted


def test_a_vocabulary_from_a_dump(tmp_path: Path) -> None:
    text = "<revision><text>'''Lima''' is {{big}} in Peru.</text></revision>"
    page = f"<page><title>Lima</title><ns>0</ns><id>1</id>{text}</page>"
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(f"<mediawiki>{page}</mediawiki>".encode()))
    code, _, said = _run(
        "tokenizer", tmp_path / "dump.xml.bz2", "--out", tmp_path / "a", "--vocab-size", 120, "--workers", 1
    )
    assert code == 0, said
    vocabulary = (tmp_path / "a" / "vocab.txt").read_text().split("\n")
    assert "lima" in vocabulary
    assert "{" not in vocabulary


def test_shards_are_shown_checked_and_told_as_json(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=2)
    code, said, _ = _run("inspect", tmp_path / "pretrain", "--samples", 1, "--plot", tmp_path / "lengths.png")
    assert code == 0
    assert "wordpieces of a span" in said
    assert "«" in said  # the tokenizer lies beside
    assert (tmp_path / "lengths.png").stat().st_size > 1000
    code, said, _ = _run("inspect", tmp_path / "corpus", "--json", "--check", "--duplicates", "--workers", 1)
    told = json.loads(said)
    assert (code, told["faults"], len(told["samples"])) == (0, [], 5)
    shard = next((tmp_path / "corpus").glob("shard-*.tar"))
    shard.unlink()
    code, said, _ = _run("inspect", tmp_path / "corpus", "--check", "--workers", 1)
    assert code == 1
    assert said.endswith(f"{shard}: is not there, though the manifest lists it\n1 fault\n")


def test_shards_elsewhere_are_shown_and_a_command_for_no_file_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", [make_passage(number) for number in range(7)])
    place = f"pipe:cat {shlex.quote(str(tmp_path))}/corpus/{{name}}"
    code, said, _ = _run("inspect", place, "--check", "--samples", 1, "--workers", 1)
    assert code == 0
    assert said.startswith(f"folder       {place}\npassages     7 in 3 tar shards")
    assert _run("inspect", "pipe:cat x")[0] == 2


def test_these_verbs_start_without_torch(tmp_path: Path, questions: Path) -> None:
    lines = [
        ["tokenizer", str(_texts(tmp_path)), "--out", str(tmp_path / "a"), "--vocab-size", "150"],
        ["qa", str(questions), "--out", str(tmp_path / "qa"), "--split", "dev"],
        ["inspect", str(tmp_path / "corpus")],
    ]
    write_corpus(tmp_path / "corpus", [make_passage(1)])
    program = (
        "import sys\n"
        "from realm_ds.cli.main import app\n"
        f"for line in {lines!r}: app(['prepare', *line], standalone_mode=False)\n"
        "print('LOADED', [name for name in ('torch', 'transformers', 'webdataset') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "LOADED []"
