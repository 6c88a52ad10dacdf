"""A corpus, examples and a config so small that a whole run takes seconds. Not real text: made by a rule."""

from pathlib import Path

from realm_ds.config.schema import RealmConfig
from realm_ds.data.question_files import write_questions
from realm_ds.data.records import Example, Passage, Question, passage_uid
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.tokenizer import Tokenizer, train_wordpiece

TOWNS = ("arlon", "brest", "cadiz", "delft", "evora", "fulda", "ghent", "huesca", "imola", "jena", "kiel", "leon")
FACTS = ("mayor", "river", "tower", "market", "harbour", "museum")


def make_data(folder: Path, *, num_facts: int = len(FACTS)) -> Tokenizer:
    """Write tokenizer/, corpus/ and pretrain/ shards of 12 x `num_facts` passages and as many examples."""
    facts = [(town, fact) for town in TOWNS for fact in FACTS[:num_facts]]
    texts = {pair: _text(*pair) for pair in facts}
    tokenizer = train_wordpiece(iter([*texts.values()] * 3), vocab_size=400, folder=folder / "tokenizer")
    passages = [_passage(town, fact, texts[town, fact], tokenizer) for town, fact in facts]
    settings = {"per_shard": 20, "tokenizer_fingerprint": tokenizer.fingerprint, "source": "rule", "settings": {}}
    write_shards(passages, folder / "corpus", kind="corpus", **settings)
    examples = [_example(number, passage, tokenizer) for number, passage in enumerate(passages)]
    write_shards(examples, folder / "pretrain", kind="pretrain", **settings)
    return tokenizer


def make_held_out(folder: Path, tokenizer: Tokenizer, *, count: int = 9) -> None:
    """Write held_out/ shards of `count` sentences that pre-training never reads, one fact in another wording each, and
    held_out.jsonl of questions, every other one without gold passages."""
    examples, questions = [], []
    for number, (town, fact) in enumerate([(town, fact) for fact in FACTS for town in TOWNS][:count]):
        answer = f"{fact[:3]}{town[:3]}"
        ids = tokenizer.encode(f"called {answer} the {fact} of {town} has a tower.")
        examples.append(
            Example(
                id=f"held-{number}", text="", ids=tuple(ids), sentences=((0, len(ids)),),
                spans=((1, 2 + number % 3),), origin_uid=0,
            )
        )  # fmt: skip
        uid = passage_uid(f"{town} {fact}", _text(town, fact))
        questions.append(
            Question(
                id=str(number), question=f"{town} {fact} is called", answers=(answer,),
                gold_uids=(uid,) if number % 2 else (),
            )
        )  # fmt: skip
    settings = {"per_shard": 4, "tokenizer_fingerprint": tokenizer.fingerprint, "source": "rule", "settings": {}}
    write_shards(examples, folder / "held_out", kind="pretrain", **settings)
    write_questions(folder / "held_out.jsonl", questions)


def tiny_config(data: Path, **changes: object) -> RealmConfig:
    """A run over `make_data`'s shards; `changes` replace dotted settings, such as {"pretrain.steps": 4}."""
    settings: dict[str, dict[str, object]] = {
        "data": {
            "corpus": data / "corpus", "pretrain": data / "pretrain", "tokenizer": data / "tokenizer",
            "query_tokens": 16, "passage_tokens": 32, "max_masks": 3,
        },
        "model": {
            "num_layers": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "projection_size": 16,
            "share_towers": False, "dropout": 0.1,
        },
        "ict": {
            "steps": 4, "micro_batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1, "save_every_steps": 100,
            "log_every_steps": 1, "passages_per_article": 2, "encoder_warmup": True,
        },
        "pretrain": {
            "steps": 9, "micro_batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1, "save_every_steps": 100,
            "log_every_steps": 1, "candidates": 4, "search_ahead": 1,
        },
        "refresh": {"every_steps": 3, "adopt_after_steps": 2},
        "index": {"num_shards": 2, "placement": "tail", "embed_batch_tokens": 512, "build_timeout_s": 60.0},
        "evaluate": {},
        "runtime": {"wait_timeout_s": 60.0, "trainers": 2},
    }  # fmt: skip
    for name, value in changes.items():
        section, key = name.split(".")
        settings.setdefault(section, {})[key] = value
    return RealmConfig.model_validate(settings)


def _text(town: str, fact: str) -> str:
    return f"{town} has a {fact}. the {fact} of {town} is called {fact[:3]}{town[:3]}."


def _passage(town: str, fact: str, text: str, tokenizer: Tokenizer) -> Passage:
    first, second = (sentence + "." for sentence in text.rstrip(".").split(". "))
    first_ids, second_ids = tokenizer.encode(first), tokenizer.encode(second)
    return Passage(
        uid=passage_uid(f"{town} {fact}", text),
        title=f"{town} {fact}",
        text=text,
        article=town,
        title_ids=tuple(tokenizer.encode(f"{town} {fact}")),
        body_ids=(*first_ids, *second_ids),
        sentences=((0, len(first_ids)), (len(first_ids), len(first_ids) + len(second_ids))),
    )


def _example(number: int, passage: Passage, tokenizer: Tokenizer) -> Example:
    start, end = passage.sentences[1]
    ids = passage.body_ids[start:end]
    return Example(
        id=f"{number:04d}",
        text=tokenizer.decode(ids),
        ids=ids,
        sentences=((0, len(ids)),),
        spans=((len(ids) - 3, len(ids) - 1),),
        origin_uid=passage.uid if number % 2 else 0,
        origin_article=passage.article if number % 2 else "",
    )
