"""`realm-ds index build, search, info, verify` in one process: answers of brute force, and every mistake by name."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save
from typer.testing import CliRunner

from realm_ds.cli import main as cli
from realm_ds.config.load import dump, load
from realm_ds.config.schema import RealmConfig
from realm_ds.data.records import passage_uid
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.errors import ConfigError
from realm_ds.eval.corpus import embed_queries, embed_with
from realm_ds.index.store import IndexStore, stored_parts, version_folder, write_snapshot
from realm_ds.launch.index_build import _Pace
from realm_ds.launch.index_store import gaps, joined, refuse_other_folder, told
from realm_ds.models.hf_realm import BERT_SIZES, TOWER_NAMES, flipped, renamed
from realm_ds.models.towers import Embedder
from realm_ds.observe.progress import Progress, size_text
from tests.support.tiny import TOWNS, make_data
from tests.support.tiny_index import make_export, make_ground, make_run

QUERIES = ("the mayor of delft", "the [MASK] harbour", "which river does jena have?")


def run(*arguments: object, stdin: str | None = None, code: int = 0) -> str:
    """Runs a verb; returns what it printed, or what it complained about."""
    result = CliRunner().invoke(cli.app, ["index", *map(str, arguments)], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 or not result.stderr.startswith("realm-ds: ") else result.stderr


def search(store: Path, *options: object, queries: tuple[str, ...] = QUERIES) -> list[list[dict]]:
    lines = run("search", store, *queries, "--json", *options).splitlines()
    return [json.loads(line)["hits"] for line in lines]


def build(ground: Path, out: Path, *options: object, code: int = 0) -> str:
    return run("build", "-c", ground / "config.yaml", "--tower", ground / "export", "-o", out, *options, code=code)


def part(store: Path, start: int, stop: int, suffix: str = ".npy") -> Path:
    return version_folder(store, 0) / f"part-{start:09d}-{stop:09d}{suffix}"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground")
    make_ground(folder)
    return folder


@pytest.fixture(scope="module")
def config(ground: Path) -> RealmConfig:
    return load(ground / "config.yaml")


@pytest.fixture(scope="module")
def built(ground: Path) -> Path:
    """72 passages in parts of 20. Tests that change it take a copy."""
    out = ground / "index"
    build(ground, out, "--part-passages", 20)
    return out


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "store"))


@pytest.fixture(scope="module")
def trained(ground: Path, config: RealmConfig) -> Path:
    return make_run(ground / "run", config)


def brute_force(config: RealmConfig, query: Embedder, passage: Embedder, *, num_hits: int) -> list[list[str]]:
    """Titles of the best passages, by ten lines of numpy over passages embedded all at once."""
    from realm_ds.data.batches import passage_batch

    tokenizer = load_tokenizer(config.data.tokenizer)
    passages = list(open_shards(config.data.corpus, kind="corpus", fingerprint=None).passages())
    pairs = [(each.title_ids, each.body_ids) for each in passages]
    vectors = embed_with(passage.eval())(passage_batch(pairs, special=tokenizer.special, max_tokens=32))
    queries = embed_queries(query, tokenizer.encode_questions(QUERIES), special=tokenizer.special, max_tokens=16)
    order = np.argsort(-(queries @ vectors.T), axis=1)[:, :num_hits]
    return [[passages[place].title for place in row] for row in order]


def test_an_export_is_searched_as_brute_force_does(ground: Path, config: RealmConfig, built: Path) -> None:
    expected = brute_force(
        config, Embedder.load(ground / "export/query_tower"), Embedder.load(ground / "export/passage_tower"), num_hits=4
    )
    found = search(built, "-k", 4)
    assert [[hit["title"] for hit in hits] for hits in found] == expected
    assert [hit["rank"] for hit in found[0]] == [1, 2, 3, 4]
    assert all(hit["uid"] == passage_uid(hit["title"], hit["text"]) for hits in found for hit in hits)
    assert all(hits == sorted(hits, key=lambda hit: -hit["score"]) for hits in found)


def test_an_index_of_googles_realm(ground: Path, config: RealmConfig, tmp_path: Path) -> None:
    """In transformers' layout, as it was released: its two towers under their names there."""
    for name, prefix in (("query_tower", "query_embedder."), ("passage_tower", "embedder.")):
        state = Embedder.load(ground / "export" / name).state_dict()
        theirs = renamed(state, flipped(TOWER_NAMES))
        (tmp_path / "embedder").mkdir(exist_ok=True)
        torch.save({prefix + key: value for key, value in theirs.items()}, tmp_path / f"{name}.bin")
    both = {
        **torch.load(tmp_path / "query_tower.bin", weights_only=True),
        **torch.load(tmp_path / "passage_tower.bin", weights_only=True),
    }
    torch.save(both, tmp_path / "embedder" / "pytorch_model.bin")
    bert = json.loads((ground / "export" / "query_tower" / "config.json").read_text())
    sizes = {name: bert[name] for name in BERT_SIZES}
    settings = {"model_type": "realm", "retriever_proj_size": config.model.projection_size, **sizes}
    (tmp_path / "embedder" / "config.json").write_text(json.dumps(settings))
    run("build", "-c", ground / "config.yaml", "--tower", tmp_path, "-o", tmp_path / "index")
    expected = brute_force(
        config, Embedder.load(ground / "export/query_tower"), Embedder.load(ground / "export/passage_tower"), num_hits=4
    )
    found = search(tmp_path / "index", "-k", 4)
    assert [[hit["title"] for hit in hits] for hits in found] == expected


def test_people_read_rank_score_title_and_text(built: Path) -> None:
    (best,) = search(built, "-k", 1, queries=(QUERIES[0],))[0]
    text = run("search", built, QUERIES[0], "-k", 1)
    assert text == f"{QUERIES[0]}\n  1  {best['score']:8.3f}  {best['title']}\n{15 * ' '}{best['text']}\n\n"


def test_queries_come_from_a_file_or_standard_input(built: Path, tmp_path: Path) -> None:
    lines = "\n".join([QUERIES[0], "", f"  {QUERIES[1]}  "]) + "\n"
    (tmp_path / "queries.txt").write_text(lines)
    expected = search(built, queries=QUERIES[:2])
    assert search(built, "--file", tmp_path / "queries.txt", queries=()) == expected
    piped = run("search", built, "-", "--json", stdin=lines).splitlines()
    assert [json.loads(line)["hits"] for line in piped] == expected
    assert [json.loads(line)["query"] for line in piped] == list(QUERIES[:2])


def test_more_hits_than_passages_are_all_passages(built: Path) -> None:
    (hits,) = search(built, "-k", 100, queries=("mayor",))
    assert len({hit["uid"] for hit in hits}) == len(hits) == 72


def test_other_factories_search_the_same_vectors(built: Path) -> None:
    """Rounded scores propose, the stored vectors choose."""
    found = search(built, "-k", 3, "--factory", "SQfp16")
    assert [[hit["uid"] for hit in hits] for hits in found] == [
        [hit["uid"] for hit in hits] for hits in search(built, "-k", 3)
    ]
    assert "index.factory='Flatt'" in run("search", built, "a", "--factory", "Flatt", code=2)


def test_half_precision_halves_the_files(ground: Path, built: Path, tmp_path: Path) -> None:
    build(ground, tmp_path / "half", "index.vectors=fp16")
    (whole,) = stored_parts(tmp_path / "half", 0)
    assert np.load(whole.vectors_path).dtype == np.float16
    assert [[hit["title"] for hit in hits] for hits in search(tmp_path / "half", "-k", 2)] == [
        [hit["title"] for hit in hits] for hits in search(built, "-k", 2)
    ]
    assert json.loads(run("info", tmp_path / "half", "--json"))["versions"][0]["dtype"] == "fp16"


def test_passages_embedded_in_half_precision_have_nearly_the_same_vectors(
    ground: Path, built: Path, tmp_path: Path
) -> None:
    build(ground, tmp_path / "rounded", "index.embed_dtype=bf16")
    whole, rounded = (
        np.concatenate([np.load(part.vectors_path) for part in sorted(stored_parts(store, 0), key=lambda p: p.start)])
        for store in (built, tmp_path / "rounded")
    )
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - whole).max() < 0.1


def test_a_build_goes_on_with_what_is_missing(ground: Path, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept, damaged = part(store, 0, 20), part(store, 20, 40)
    before = kept.stat().st_mtime_ns
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for suffix in (".npy", ".json"):
        part(store, 60, 72, suffix).unlink()
    build(ground, store, "--part-passages", 5)
    assert f"{damaged} is damaged" in caplog.text
    assert kept.stat().st_mtime_ns == before
    names = [(each.start, each.stop) for each in stored_parts(store, 0)]
    assert names[:2] == [(0, 20), (20, 40)]
    assert (20, 25) in names
    assert (60, 65) in names


def test_a_build_that_is_stopped_keeps_its_parts(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = IndexStore.save

    def stop_at_40(self: IndexStore, *arguments: object, start: int, **options: object) -> None:
        if start == 40:
            raise KeyboardInterrupt
        save(self, *arguments, start=start, **options)

    with monkeypatch.context() as patch:
        patch.setattr(IndexStore, "save", stop_at_40)
        build(ground, tmp_path / "out", "--part-passages", 20, code=130)
    assert "lacks passages 40 to 71" in run("info", tmp_path / "out")
    complaint = run("search", tmp_path / "out", "a", code=1)
    assert "index version 0 in " in complaint
    assert "lacks passages 40 to 71 of 72: run the same `realm-ds index build` again" in complaint
    run("build", "-o", tmp_path / "out")  # its folder knows the rest
    assert "lacks nothing" in run("info", tmp_path / "out")
    run("verify", tmp_path / "out")


def test_a_dry_run_tells_what_it_takes_and_does_nothing(ground: Path, tmp_path: Path) -> None:
    said = build(ground, tmp_path / "out", "--dry-run", "-n", 3, "--part-passages", 10)
    assert "passages   72, of " in said
    assert "on disk    4.61 kB in 9 parts (fp32)" in said
    assert "-m realm_ds index build --config " in said
    assert not (tmp_path / "out").exists()


def test_info_tells_what_is_there(built: Path, ground: Path) -> None:
    info = json.loads(run("info", built, "--json"))
    (version,) = info["versions"]
    assert (info["towers"], info["factory"]) == (str(ground / "export"), "Flat")
    assert (info["corpus"]["state"], info["corpus"]["passages"]) == ("unchanged", 72)
    assert (version["version"], version["parts"], version["passages"], version["gaps"]) == (0, 4, 72, [])
    assert (version["width"], version["dtype"], version["step"]) == (16, "fp32", None)
    assert version["bytes"] == 72 * 16 * 4 + 4 * 128
    assert "72 passages in 4 parts, 16 wide, fp32, 5.12 kB; lacks nothing" in run("info", built)


def test_verify_names_every_fault(store: Path) -> None:
    assert run("verify", store).startswith("all is well: ")
    content = bytearray(part(store, 0, 20).read_bytes())
    content[-1] ^= 1
    part(store, 0, 20).write_bytes(content)
    part(store, 20, 40).unlink()
    part(store, 40, 60, ".json").unlink()
    part(store, 60, 72, ".json").write_text("{}")
    problems = run("verify", store, code=1).splitlines()
    assert len(problems) == 4
    assert problems[0].startswith("version 0: passages 60 to 71: part-000000060-000000072.npy is of format None")
    assert "passages 0 to 19: part-000000000-000000020.npy is damaged (its sha256 is " in problems[1]
    assert "passages 20 to 39: part-000000020-000000040.npy is missing" in problems[2]
    assert problems[3] == "version 0: passages 40 to 59 of 72 are missing"
    assert "is of format None" in run("info", store)


def test_vectors_that_are_not_finite_are_named_by_their_passage(ground: Path, built: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(built, tmp_path / "store"))
    manifest = json.loads(part(out, 20, 40, ".json").read_text())
    vectors = np.load(part(out, 20, 40)).copy()
    vectors[7, 3] = np.nan
    IndexStore(out, corpus_sha256=manifest["corpus_sha256"]).save(
        vectors, version=0, snapshot_sha256=manifest["snapshot_sha256"], start=20
    )
    assert "part-000000020-000000040.npy is not finite at passage 27" in run("verify", out, code=1)


def test_a_run_is_searched_by_the_towers_of_its_snapshot(trained: Path, config: RealmConfig) -> None:
    towers = []
    state = load_file(version_folder(trained / "index", 2) / "snapshot.safetensors")
    for name in ("query_tower", "passage_tower"):
        from realm_ds.models.realm import frozen_tower

        tower = frozen_tower(config.model, vocab_size=load_tokenizer(config.data.tokenizer).vocab_size, max_tokens=48)
        tower.load_state_dict(
            {key.removeprefix(f"{name}."): torch.tensor(value) for key, value in state.items() if key.startswith(name)}
        )
        towers.append(tower)
    expected = brute_force(config, *towers, num_hits=3)
    for path in (trained, trained / "index"):
        assert [[hit["title"] for hit in hits] for hits in search(path, "-k", 3)] == expected
    info = json.loads(run("info", trained, "--json"))
    assert [(version["version"], version["step"]) for version in info["versions"]] == [(2, 6)]
    assert run("verify", trained).startswith("all is well: ")


def test_versions_of_a_run_are_chosen(ground: Path, config: RealmConfig, tmp_path: Path) -> None:
    """The newest that is whole; one of which only the snapshot is there is no fault, as long as another is built."""
    folder = make_run(tmp_path / "run", config)
    shutil.copytree(version_folder(folder / "index", 2), version_folder(folder / "index", 3))
    for path in version_folder(folder / "index", 3).glob("part-*"):
        path.unlink()
    assert search(folder) == search(folder, "--version", 2)
    assert "version 3, of step 6\n    no vectors: not built yet" in run("info", folder)
    assert run("verify", folder).startswith("all is well: ")
    assert "version 3: passages 0 to 71 of 72 are missing" in run("verify", folder, "--version", 3, code=1)
    assert "index version 3 in " in run("search", folder, "a", "--version", 3, code=1)
    assert f"no version 9 in {folder / 'index'}: there is 2, 3; leave --version out" in run(
        "search", folder, "a", "--version", 9, code=1
    )
    assert "no version 9" in run("verify", folder, "--version", 9, code=1)


def test_an_index_is_built_from_a_run(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("build", "--run", trained, "-o", out)
    found, expected = search(out), search(trained)
    assert [[hit["uid"] for hit in hits] for hits in found] == [[hit["uid"] for hit in hits] for hits in expected]
    info = json.loads(run("info", out, "--json"))
    assert info["versions"][0]["step"] == 6
    assert info["towers"] == str(version_folder(trained / "index", 2) / "snapshot.safetensors")


def test_a_tower_kept_in_16_bits_is_widened(trained: Path, config: RealmConfig, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    path = version_folder(folder / "index", 2) / "snapshot.safetensors"
    state = {name: value.astype(np.float16) for name, value in load_file(path).items()}
    write_snapshot(folder / "index", 2, save(state, metadata={"step": "6"}), step=6)
    run("build", "--run", folder, "-o", tmp_path / "out")
    titles = [[hit["title"] for hit in hits] for hits in search(tmp_path / "out", "-k", 1)]
    assert titles == [[hit["title"] for hit in hits] for hits in search(trained, "-k", 1)]


class TestMistakes:
    def test_no_store(self, tmp_path: Path, ground: Path) -> None:
        for verb in (["info"], ["verify"], ["search"]):
            complaint = run(*verb, tmp_path, *(["a"] if verb == ["search"] else []), code=1)
            assert complaint.startswith(f"realm-ds: no index in {tmp_path}: neither index.json nor a folder version-0")

    def test_no_query(self, built: Path) -> None:
        assert "no query: give a text, or - to read them" in run("search", built, "  ", code=2)

    def test_a_file_of_queries_that_is_no_text(self, built: Path, tmp_path: Path) -> None:
        (tmp_path / "queries").write_bytes(b"\xff\xfe")
        assert "is not UTF-8 text" in run("search", built, "--file", tmp_path / "queries", code=1)

    def test_a_damaged_card(self, store: Path) -> None:
        (store / "index.json").write_text("{")
        assert f"{store / 'index.json'} is damaged" in run("info", store, code=1)
        (store / "index.json").write_text('{"format": 1}')
        assert "is damaged" in run("info", store, code=1)
        (store / "index.json").write_text('{"format": 9}')
        assert "is of format 9, but this realm-ds reads 1" in run("search", store, "a", code=1)

    def test_a_part_that_only_looks_whole(self, store: Path, caplog: pytest.LogCaptureFixture) -> None:
        part(store, 20, 40).write_bytes(b"x" * part(store, 20, 40).stat().st_size)
        complaint = run("search", store, "a", code=1)
        assert "cannot be read whole (the log names the part): `realm-ds index verify`" in complaint
        assert "part-000000020-000000040.npy is damaged (no .npy file" in caplog.text

    def test_no_settings_beside_it(self, store: Path) -> None:
        (store / "config.yaml").unlink()
        assert f"{store} has no config.yaml, in it or beside it" in run("search", store, "a", code=1)
        assert "72 passages\n  corpus     unknown\n" in run("info", store)
        assert run("verify", store).startswith("all is well: ")

    def test_a_corpus_that_has_changed(self, config: RealmConfig, store: Path, tmp_path: Path) -> None:
        make_data(tmp_path / "data", num_facts=5)
        shutil.copytree(config.data.tokenizer, tmp_path / "tokenizer")
        _settings(store, config, corpus=tmp_path / "data/corpus", tokenizer=tmp_path / "data/tokenizer")
        assert "is another tokenizer than " in run("search", store, "a", code=1)
        card = json.loads((store / "index.json").read_text())
        card["tokenizer_fingerprint"] = load_tokenizer(tmp_path / "data/tokenizer").fingerprint
        (store / "index.json").write_text(json.dumps(card))
        assert f"the corpus in {tmp_path / 'data/corpus'} has changed since {store} was built" in run(
            "search", store, "a", code=1
        )
        assert "has changed: its sha256 is " in run("verify", store, code=1)
        assert "(changed: its sha256 is " in run("info", store)

    def test_a_corpus_that_has_changed_under_a_run(self, config: RealmConfig, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", config)
        manifest = Path(shutil.copytree(config.data.corpus, tmp_path / "corpus")) / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"source": "elsewhere"}))
        _settings(folder, config, corpus=tmp_path / "corpus")
        assert "has changed since" in run("search", folder, "a", code=1)

    def test_a_corpus_that_is_gone(self, config: RealmConfig, store: Path, tmp_path: Path) -> None:
        _settings(store, config, corpus=tmp_path / "gone")
        assert f"no folder {tmp_path / 'gone'} of corpus tar shards" in run("search", store, "a", code=1)
        assert "(unreadable: no folder " in run("info", store)
        assert run("verify", store).startswith("all is well: ")

    def test_towers_that_were_replaced(self, config: RealmConfig, ground: Path, store: Path, tmp_path: Path) -> None:
        other = make_export(tmp_path / "other", config, seed=4)
        _card(store, towers=str(other))
        assert f"the towers in {other} are others than those that {store} was built with" in run(
            "search", store, "a", code=1
        )
        model = config.model.model_copy(update={"projection_size": 8})
        narrow = make_export(tmp_path / "narrow", config.model_copy(update={"model": model}))
        _card(store, towers=str(narrow))
        assert f"{narrow} gives vectors 8 wide, but those of {store} are 16 wide" in run("search", store, "a", code=1)
        _card(store, towers=str(tmp_path / "gone"))
        assert f"{tmp_path / 'gone'} is not an export of realm-ds" in run("search", store, "a", code=1)

    def test_a_folder_that_holds_something_else(
        self, config: RealmConfig, ground: Path, store: Path, trained: Path, tmp_path: Path
    ) -> None:
        complaint = build(ground, ground / "export", code=2)
        assert f"{ground / 'export'} is no index and not empty (it holds encoder): name another folder" in complaint
        complaint = build(ground, trained, code=2)
        assert f"{trained} is no index and not empty (it holds a training run): name another folder" in complaint
        make_export(tmp_path / "other", config, seed=4)
        complaint = build(ground, store, "--tower", tmp_path / "other", "index.vectors=fp16", code=2)
        assert f"{store} holds an index of something else (towers_sha256 was " in complaint
        assert "dtype was fp32, now fp16): name another folder" in complaint

    def test_what_a_batch_script_and_its_ranks_have_left_is_nothing_else(self, tmp_path: Path) -> None:
        for name in ("job", "restarts", "why.txt", ".world", "ranks", "failures"):
            (tmp_path / name).touch()
            assert refuse_other_folder(tmp_path) is None
        (tmp_path / "notes").touch()
        with pytest.raises(ConfigError, match=r"not empty .it holds notes.: name another folder with --run"):
            refuse_other_folder(tmp_path, option="--run")

    def test_towers_that_do_not_fit(self, config: RealmConfig, ground: Path, tmp_path: Path) -> None:
        source = ["-c", ground / "config.yaml", "-o", tmp_path / "out"]
        assert "no towers to embed with: name an export folder with --tower" in run("build", *source, code=2)
        assert "is not an export of realm-ds" in run("build", *source, "--tower", tmp_path, code=1)
        (tmp_path / "file").write_bytes(b"no tensors")
        assert "does not hold two towers" in run("build", *source, "--tower", tmp_path / "file", code=1)
        assert "has 512 positions, but passages and queries may take 600" in build(
            ground, tmp_path / "out", "data.passage_tokens=600", code=2
        )
        export = Path(shutil.copytree(ground / "export", tmp_path / "export"))
        sizes = json.loads((export / "passage_tower/config.json").read_text()) | {"vocab_size": 10}
        (export / "passage_tower/config.json").write_text(json.dumps(sizes))
        assert f"{export} has 10 wordpieces, but data.tokenizer=" in run("build", *source, "--tower", export, code=2)
        (export / "passage_tower/projection.safetensors").unlink()
        assert "passage_tower/projection.safetensors is missing" in run("build", *source, "--tower", export, code=1)

    def test_passages_longer_than_the_settings_take(self, ground: Path, tmp_path: Path) -> None:
        corpus = Path(shutil.copytree(ground / "data" / "corpus", tmp_path / "corpus"))
        manifest = json.loads((corpus / "manifest.json").read_bytes()) | {"settings": {"passage_tokens": 40}}
        (corpus / "manifest.json").write_text(json.dumps(manifest))
        complaint = build(ground, tmp_path / "out", f"data.corpus={corpus}", code=2)
        assert "up to 40 wordpieces, more than data.passage_tokens=32: set data.passage_tokens=40" in complaint
        assert not (tmp_path / "out").exists()

    def test_more_processes_than_passages(self, ground: Path, tmp_path: Path) -> None:
        complaint = build(ground, tmp_path / "out", "-n", 73, code=2)
        assert "--processes=73 is more than the 72 passages of the corpus" in complaint
        assert not (tmp_path / "out").exists()

    def test_a_tokenizer_of_other_towers(self, config: RealmConfig, ground: Path, tmp_path: Path) -> None:
        make_data(tmp_path / "data", num_facts=4)
        other = [f"data.corpus={tmp_path / 'data/corpus'}", f"data.tokenizer={tmp_path / 'data/tokenizer'}"]
        complaint = build(ground, tmp_path / "out", *other, code=2)
        assert f"{ground / 'export'} was trained with another tokenizer (its own is in " in complaint
        mixed = build(ground, tmp_path / "out", other[0], code=1)
        assert "made with tokenizer " in mixed

    def test_a_run_whose_settings_are_not_its_own(self, config: RealmConfig, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", config)
        model = config.model.model_copy(update={"hidden_size": 16})
        (folder / "config.yaml").write_text(dump(config.model_copy(update={"model": model})))
        assert "was made with other model sizes than its run's config.yaml says" in run("search", folder, "a", code=1)

    def test_parts_of_something_else_are_told(self, built: Path, store: Path) -> None:
        other = IndexStore(store, corpus_sha256="another")
        other.save(np.zeros((3, 16), "f4"), version=0, snapshot_sha256="another", start=70)
        assert "1 more parts are of another snapshot, corpus or width: not used" in run("info", store)
        assert "part-000000070-000000073.npy is of another snapshot" in run("verify", store, code=1)
        assert search(store) == search(built)

    def test_a_part_beyond_the_corpus(self, store: Path) -> None:
        manifest = json.loads(part(store, 20, 40, ".json").read_text())
        IndexStore(store, corpus_sha256=manifest["corpus_sha256"]).save(
            np.zeros((3, 16), "f4"), version=0, snapshot_sha256=manifest["snapshot_sha256"], start=70
        )
        assert "part-000000070-000000073.npy ends beyond the 72 passages" in run("verify", store, code=1)

    def test_a_run_without_snapshots(self, ground: Path, config: RealmConfig, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text(dump(config))
        assert f"{tmp_path} holds no snapshot" in run("build", "--run", tmp_path, "-o", tmp_path / "out", code=1)
        both = ["--run", tmp_path, "-c", ground / "config.yaml"]
        assert "both give the settings: leave one of them out" in run("build", *both, "-o", tmp_path / "out", code=2)


def _settings(folder: Path, config: RealmConfig, **data: Path) -> None:
    changed = config.model_copy(update={"data": config.data.model_copy(update=data)})
    (folder / "config.yaml").write_text(dump(changed))


def _card(store: Path, **changes: object) -> None:
    (store / "index.json").write_text(json.dumps(json.loads((store / "index.json").read_text()) | changes))


def test_long_queries_are_cut_with_a_word(built: Path, caplog: pytest.LogCaptureFixture) -> None:
    search(built, queries=(" ".join(TOWNS * 2),))
    assert "wordpieces: the first 14 count (data.query_tokens)" in caplog.text


@pytest.mark.parametrize("verb", ["", "build", "search", "info", "verify"])
def test_every_verb_teaches_by_an_example(verb: str) -> None:
    result = CliRunner().invoke(cli.app, ["index", *verb.split(), "--help"])
    assert result.exit_code == 0
    assert not verb or f"realm-ds index {verb} " in result.stdout.partition("Usage: ")[2].partition("\n")[2]
    assert "--scratch" not in result.stdout


def test_no_deepspeed_is_loaded() -> None:
    names = ("index_build", "index_check", "index_search", "search_ranks")
    program = f"import sys\nfor name in {names}: __import__('realm_ds.launch.' + name)\n"
    program += "sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_build_says_how_fast_it_is() -> None:
    ticks, out = iter([0.0, 2.0, 4.0]), io.StringIO()
    with Progress(out=out, every_s=0) as progress:
        pace = _Pace(progress.stage("index", total=5000), clock=lambda: next(ticks))
        for done in (1000, 1000, 4000):  # 1000 were kept
            pace.update(done)
    assert out.getvalue().splitlines()[-1].endswith(": 750 passages/s")


def test_ranges() -> None:
    assert joined([(5, 9), (0, 3), (3, 4), (8, 12), (2, 2)]) == [(0, 4), (5, 12)]
    assert gaps([(0, 4), (5, 12)], 0, 12) == [(4, 5)]
    assert gaps([(0, 4), (5, 12)], 6, 20) == [(12, 20)]
    assert gaps([(10, 20)], 0, 5) == [(0, 5)]
    assert gaps([], 3, 3) == []
    assert told([(0, 5), (7, 8)]) == "passages 0 to 4, 7 to 7"
    assert told([(n, n + 1) for n in range(6)]).endswith("3 to 3 and 2 more ranges")
    assert [size_text(size) for size in (5, 4608, 3_100_000, 12 * 10**9)] == ["5 bytes", "4.61 kB", "3.1 MB", "12 GB"]


def test_a_damaged_snapshot_is_named_and_not_built_from(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    path = version_folder(folder / "index", 2) / "snapshot.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    assert "version 2: snapshot.safetensors is damaged (its sha256 is" in run("verify", folder, code=1)
    assert "snapshot.safetensors is damaged" in run("build", "--run", folder, "-o", tmp_path / "out", code=1)


def test_a_factory_that_cannot_work_is_refused_before_anything_is_embedded(ground: Path, tmp_path: Path) -> None:
    build = ("build", "-c", ground / "config.yaml", "--tower", ground / "export", "-o", tmp_path / "out")
    assert "needs at least 4096 passages to train it, but a shard has 72" in run(
        *build, "index.factory=IVF4096,Flat", code=2
    )
    assert "is nothing that FAISS can make" in run(*build, "--dry-run", "index.factory=nonsense", code=2)
    assert not (tmp_path / "out").exists()


def test_more_ranks_than_a_machine_bears_are_refused(built: Path) -> None:
    assert "--processes 5000 on " in run("search", built, "x", "--processes", 5000, code=2)
