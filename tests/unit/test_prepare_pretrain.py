"""`prepare pretrain`: from corpus shards and from documents to shards of examples."""

import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from realm_ds.cli import main as cli
from realm_ds.data.records import Example, Passage, passage_uid
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare.corpus import Cutting, prepare_corpus
from realm_ds.prepare.examples import READ
from realm_ds.prepare.finders import FinderChoice
from realm_ds.prepare.passages import CorpusPassages, DocumentPassages, PassageSource
from realm_ds.prepare.pretrain import Making, estimate_pretrain, prepare_pretrain
from realm_ds.prepare.sources import open_source

NUM_ARTICLES = 60


class Prepared:
    """A tokenizer, a corpus of articles of two passages each, and the same articles as JSON lines."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer, self.corpus, self.lines = folder / "tokenizer", folder / "corpus", folder / "a.jsonl"
        texts = [self.sentences(number, part) for number in range(NUM_ARTICLES) for part in (0, 1)]
        vocabulary = train_wordpiece(iter(itertools.chain(*texts)), vocab_size=400, folder=self.tokenizer)
        self.passages = [self._passage(n // 2, text, vocabulary) for n, text in enumerate(texts)]
        write_shards(
            self.passages, self.corpus, kind="corpus", per_shard=17, tokenizer_fingerprint=vocabulary.fingerprint,
            source="made up", settings={},
        )  # fmt: skip
        rows = [{"id": str(n), "title": f"t{n}", "text": " ".join(texts[2 * n])} for n in range(NUM_ARTICLES)]
        self.lines.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def sentences(self, number: int, part: int) -> list[str]:
        """Every fifth article has no span in its second passage."""
        if part and number % 5 == 0:
            return [f"it was there {'again and ' * number}again."]
        return [
            f"it was in {1900 + number} {'and ' * part}there.",
            f"they met Anna Lee on {1 + number % 28} July {1700 + number}.",
        ]

    def _passage(self, number: int, sentences: Sequence[str], tokenizer: Tokenizer) -> Passage:
        ids = tokenizer.encode_all(sentences)
        ends = itertools.accumulate(map(len, ids), initial=0)
        text = " ".join(sentences)
        return Passage(
            uid=passage_uid(f"t{number}", text), title=f"t{number}", text=text, article=f"a{number}", title_ids=(),
            body_ids=tuple(itertools.chain.from_iterable(ids)), sentences=tuple(itertools.pairwise(ends)),
        )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("prepared"))


def making(prepared: Prepared, **changes: Any) -> Making:
    return Making(**{"tokenizer": prepared.tokenizer, "finder": FinderChoice(), **changes})


def of_corpus(prepared: Prepared) -> CorpusPassages:
    return CorpusPassages(prepared.corpus, tokenizer=prepared.tokenizer)


def of_documents(prepared: Prepared) -> DocumentPassages:
    return DocumentPassages(open_source([prepared.lines]), Cutting(tokenizer=prepared.tokenizer, passage_tokens=64))


def write(source: PassageSource, out: Path, making: Making) -> list[Example]:
    prepare_pretrain(source, out, making, per_shard=25, workers=0, resume=False)
    return read(out)


def read(folder: Path) -> list[Example]:
    return list(open_shards(folder, kind="pretrain", fingerprint=None).examples())


def test_every_passage_with_a_span_is_an_example_in_the_order_of_the_corpus(prepared: Prepared, tmp_path: Path) -> None:
    examples = write(of_corpus(prepared), tmp_path / "out", making(prepared))
    with_spans = [passage for n, passage in enumerate(prepared.passages) if n % 10 != 1]
    assert [example.origin_uid for example in examples] == [passage.uid for passage in with_spans]
    assert [example.origin_article for example in examples] == [passage.article for passage in with_spans]
    assert [example.ids for example in examples] == [passage.body_ids for passage in with_spans]
    assert [len(example.spans) for example in examples] == [3] * len(examples)
    manifest = open_shards(tmp_path / "out", kind="pretrain", fingerprint=None).manifest
    assert manifest.source == "made up"
    assert manifest.settings["spans"] == "rules"
    assert manifest.settings["counts"] == {
        "passages read": 120, "passages without a salient span, left out": 12, "spans of kind DATE": 216,
        "spans of kind NAME": 108,
    }  # fmt: skip


def test_documents_are_cut_first(prepared: Prepared, tmp_path: Path) -> None:
    examples = write(of_documents(prepared), tmp_path / "out", making(prepared))
    assert [example.text for example in examples] == [" ".join(prepared.sentences(n, 0)) for n in range(NUM_ARTICLES)]
    # The corpus has the very same passages, which must not be retrieved for them; articles there are others.
    assert {example.origin_uid for example in examples} <= {passage.uid for passage in prepared.passages}
    assert {example.origin_article for example in examples} == {""}


def test_special_tokens_in_a_text_are_text(prepared: Prepared, tmp_path: Path) -> None:
    text = "they met[MASK] Anna Lee [SEP] on 3 July 1900 [CLS]. it was there in 1914."
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "title": "a [SEP] b", "text": text}))
    source, cutting = open_source([tmp_path / "a.jsonl"]), Cutting(tokenizer=prepared.tokenizer)
    prepare_corpus(source, tmp_path / "corpus", cutting, per_shard=9, workers=0, resume=False)
    corpus = CorpusPassages(tmp_path / "corpus", tokenizer=prepared.tokenizer)
    (example,) = write(corpus, tmp_path / "out", making(prepared))
    assert example.text == text
    tokenizer = load_tokenizer(prepared.tokenizer)
    special = tokenizer.special
    assert {special.cls, special.sep, special.mask}.isdisjoint(example.ids)
    assert [tokenizer.decode(example.ids[slice(*span)]) for span in example.spans] == [
        "anna lee", "3 july 1900", "1914",
    ]  # fmt: skip


def test_sentences_are_examples_of_their_own(prepared: Prepared, tmp_path: Path) -> None:
    examples = write(of_corpus(prepared), tmp_path / "out", making(prepared, unit="sentence"))
    assert len(examples) == 216
    assert examples[0].text == prepared.sentences(0, 0)[0]


def test_dates_can_be_left(prepared: Prepared, tmp_path: Path) -> None:
    examples = write(of_corpus(prepared), tmp_path / "out", making(prepared, finder=FinderChoice(dates=False)))
    assert [len(example.spans) for example in examples] == [1] * len(examples)


@pytest.mark.parametrize("open_passages", [of_corpus, of_documents])
def test_no_article_is_in_both_parts(prepared: Prepared, tmp_path: Path, open_passages: Any) -> None:
    whole = write(open_passages(prepared), tmp_path / "whole", making(prepared))
    settings = {"held_out_share": 0.5}
    held_out = write(open_passages(prepared), tmp_path / "held", making(prepared, **settings, is_held_out=True))
    rest = write(open_passages(prepared), tmp_path / "rest", making(prepared, **settings))
    article_of = {passage.uid: passage.article for passage in prepared.passages}
    held_out_articles, articles = ({article_of[each.origin_uid] for each in part} for part in (held_out, rest))
    assert not held_out_articles & articles
    assert 0.25 * NUM_ARTICLES < len(held_out_articles) < 0.75 * NUM_ARTICLES
    assert sorted([*held_out, *rest], key=lambda each: each.id) == sorted(whole, key=lambda each: each.id)


@pytest.mark.parametrize("open_passages", [of_corpus, of_documents])
def test_an_estimate_looks_at_samples_and_writes_nothing(
    prepared: Prepared, tmp_path: Path, open_passages: Any
) -> None:
    estimate = estimate_pretrain(open_passages(prepared), making(prepared))
    examples = write(open_passages(prepared), tmp_path / "out", making(prepared))
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert estimate.share == 1.0  # there is so little
    assert estimate.num_records == len(examples)
    assert estimate.num_bytes == pytest.approx(num_bytes, rel=0.4)
    assert estimate.work_s > 0
    assert sorted(path.name for path in prepared.corpus.parent.iterdir()) == ["a.jsonl", "corpus", "tokenizer"]


def test_an_estimate_stops_after_some_seconds(prepared: Prepared, tmp_path: Path) -> None:
    ticks = itertools.count(step=3.0)  # a chunk takes three seconds to read and three to work on
    estimate = estimate_pretrain(of_corpus(prepared), making(prepared), clock=lambda: next(ticks))
    assert (estimate.read_s, estimate.work_s) == (6.0, 6.0)
    assert estimate.share == estimate.tally.counts[READ] / 120 < 1.0


def test_a_tokenizer_of_another_corpus_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    other = train_wordpiece(iter(["a b c d"]), vocab_size=200, folder=tmp_path / "other")
    with pytest.raises(
        DataError, match=f"made with tokenizer .*, but the one given .*--tokenizer.* is {other.fingerprint[:12]}"
    ):
        CorpusPassages(prepared.corpus, tokenizer=tmp_path / "other")


def test_finders_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="--spans rules takes no --model and no --entity-types"):
        FinderChoice(model="x")
    with pytest.raises(ConfigError, match="--spans transformers needs --model"):
        FinderChoice(kind="transformers")
    assert FinderChoice(kind="spacy").model == "en_core_web_sm"


def test_the_manifest_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "ner").mkdir()
    assert FinderChoice(kind="spacy", model=str(tmp_path / "ner")).described()["model"] == "ner"


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    def described(folder: str, **files: str) -> dict[str, Any]:
        (tmp_path / folder / "ner").mkdir(parents=True)
        for name, content in files.items():
            (tmp_path / folder / "ner" / name.replace("_", ".")).write_text(content)
        return FinderChoice(kind="transformers", model=str(tmp_path / folder / "ner")).described()

    one = described("a", config_json="{}", model_safetensors="xx")
    assert described("b", config_json="{}", model_safetensors="xx", readme_md="beside") == one
    assert described("c", config_json="[]", model_safetensors="xx") != one
    assert described("d", config_json="{}", model_safetensors="xxx") != one
    assert described("e", config_json="{}", other_safetensors="xx") != one


def test_a_model_of_the_hub_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.finders.tagger_folder", lambda model: tmp_path)
    (tmp_path / "config.json").write_text("{}")
    choice = FinderChoice(kind="transformers", model="somebody/ner").at_hand()
    assert choice.folder == tmp_path
    assert choice.described()["model"] == "somebody/ner"
    assert len(choice.described()["model_digest"]) == 64


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, ["prepare", "pretrain", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_verb_writes_both_parts_and_says_what_came_of_it(prepared: Prepared, tmp_path: Path) -> None:
    out, held_out = tmp_path / "out", tmp_path / "held"
    options = ["--corpus", prepared.corpus, "--tokenizer", prepared.tokenizer, "--out", out, "--held-out", held_out]
    options += ["--held-out-share", 0.3, "--workers", 1]
    code, said, told = run(*options, "--dry-run")
    assert code == 0, told
    assert "read for this: all of made up\nabout " in said
    assert "passages/s each" in said
    assert not out.exists()
    code, said, told = run(*options)
    assert code == 0, told
    assert len(read(out)) + len(read(held_out)) == 108
    assert f"{len(read(out))} examples in 1 tar shard (" in told
    assert "spans of kind DATE" in told
    assert said.endswith(
        f"    realm-ds ict --config demo --run runs/ict data.corpus={prepared.corpus} data.pretrain={out} "
        f"data.held_out={held_out} data.tokenizer={prepared.tokenizer}\n"
    )
    code, _, told = run(*options, "--resume")
    assert (code, told.count("done before")) == (0, 2)
    assert run(*options)[0] == 2
    (out / "manifest.json").unlink()  # as if the command was killed there
    code, _, told = run(*options)
    assert (code, told) == (
        2, f"realm-ds: {held_out} is finished and {out} is not: go on with --resume, or name other folders for both\n"
    )  # fmt: skip


def test_the_next_line_works_as_it_is_printed(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cutting = ["--tokenizer", str(prepared.tokenizer), "--workers", "1"]
    corpus = [str(prepared.lines), "--passage-tokens", "48", "--out", "my data/corpus", *cutting]
    said = CliRunner().invoke(cli.app, ["prepare", "corpus", *corpus]).stdout
    for options in (["--workers", "1"], ["--dry-run"]):
        _, *given = shlex.split(said.splitlines()[-1].removeprefix("next:"))
        result = CliRunner().invoke(cli.app, [*given, *options])
        assert result.exit_code == 0, result.stderr
        said = result.stdout
    assert "passage_tokens: 48\n" in said


def test_the_verb_takes_documents_as_prepare_corpus_does(prepared: Prepared, tmp_path: Path) -> None:
    rows = [{"name": f"n{n}", "head": f"t{n}", "body": " ".join(prepared.sentences(n, 0))} for n in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.jsonl.gz").write_bytes(b"\x1f\x8bno gzip")
    text = "<revision><text>it was in 1950 there.</text></revision>"
    page = f"<page><title>List of towns</title><ns>0</ns><id>1</id>{text}</page>"
    (tmp_path / "c.xml").write_text(f"<mediawiki>{page}</mediawiki>")
    inputs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.xml"]
    options = ["--text-field", "body", "--title-field", "head", "--id-field", "name", "--drop-title", "^t[0-4]$"]
    options += ["--on-damage", "skip", "--keep-all-pages", "--tokenizer", prepared.tokenizer, "--workers", 1]
    code, _, told = run(*inputs, *options, "--out", tmp_path / "out")
    assert code == 0, told
    kept = [*(row["body"] for row in rows[5:]), "it was in 1950 there."]
    assert [example.text for example in read(tmp_path / "out")] == kept
    settings = open_shards(tmp_path / "out", kind="pretrain", fingerprint=None).manifest.settings
    assert (settings["drop_titles"], settings["keep_all_pages"]) == (["^t[0-4]$"], True)
    assert {"documents left out by their title": 5}.items() <= settings["counts"].items()


def test_no_folder_is_written_where_the_other_is_not_free(prepared: Prepared, tmp_path: Path) -> None:
    out, held_out = tmp_path / "out", tmp_path / "held"
    out.mkdir()
    (out / "notes.txt").touch()
    options = ["--corpus", prepared.corpus, "--tokenizer", prepared.tokenizer, "--out", out, "--held-out", held_out]
    code, _, told = run(*options, "--workers", 1)
    assert (code, "holds files already" in told) == (2, True)
    assert not held_out.exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "give either --corpus, a folder of corpus shards, or INPUT"),
        (["--corpus", "c", "a.jsonl"], "give either --corpus"),
        (["--corpus", "c", "--held-out-share", "0.1"], "--held-out-share 0.1, but no folder to write these to"),
        (["--corpus", "c", "--held-out", "h", "--held-out-share", "1.5"], "give a share between 0 and 1"),
        (["-", "--held-out", "h"], "--held-out reads its input twice, which stdin cannot be"),
        (["--corpus", "c", "--held-out", "o"], "--held-out o is --out as well"),
        (["--corpus", "c", "--held-out", "x/../o"], "--held-out x/../o is --out as well"),
        (["--corpus", "c", "--held-out", "o/h"], "of --held-out o/h and --out o one is in the other"),
        (["--corpus", "c", "--held-out", "."], "of --held-out . and --out o one is in the other"),
        (
            ["--corpus", "c", "--format", "jsonl", "--on-damage", "stop"],
            "--format, --on-damage would be ignored: with --corpus passages are taken as they are; leave that out, or",
        ),
        (["--corpus", "c", "--passage-tokens", "100"], "--passage-tokens would be ignored: with --corpus passages"),
        (["--corpus", "pipe:cat x"], "'pipe:cat x' runs one command whatever the file: write {name} where the name"),
        (["--corpus", "c", "--entity-types", "GPE"], "--spans rules takes no --model and no --entity-types"),
    ],
)
def test_what_cannot_be_is_said(options: list[str], complaint: str) -> None:
    code, _, told = run(*options, "--tokenizer", "t", "--out", "o")
    assert code == 2
    assert complaint in told
