"""The demo's text, all of it in memory: vocabulary, passages, statements, questions, prose. prepare.py writes it.

Order matters: facts are split first, then what would give held-out facts away is removed, then the vocabulary is
trained on what is left to train on, and only then, with wordpieces known, passages are cut and facts looked for in
them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from realm_ds.data.tokenizer import Tokenizer, train_wordpiece
from realm_ds.factbook.entities import Entity, articles_of
from realm_ds.factbook.facts import Fact, find_facts, normal, says
from realm_ds.factbook.passages import Article, CutPassage, make_passages
from realm_ds.factbook.questions import (
    SPLITS,
    Asked,
    Secrets,
    Split,
    Statement,
    answers_are_equal,
    is_in_wording,
    questions_of,
    split_of,
    statements_of,
)
from realm_ds.prepare.rules import salient_spans, single_names

PROSE_FIELDS = frozenset({"background", "geography", "economy", "climate", "terrain", "flag"})
"""Fields of whole sentences, which go into X as they are. Of the others, statements say what they hold."""
MAX_ANSWER_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Wording:
    """In how many ways one fact is said and asked, in training and held out."""

    train_statements: int = 3
    held_out_statements: int = 1
    train_questions: int = 2
    held_out_questions: int = 1


@dataclass(frozen=True, kw_only=True)
class Prose:
    """A sentence of the corpus with salient spans (characters)."""

    id: str
    text: str
    spans: tuple[tuple[int, int], ...]
    origin_uid: int
    origin_article: str


@dataclass(kw_only=True)
class DemoSet:
    """Everything, by split where it has one. `gold` of (fact, answer): the passages that state it."""

    tokenizer: Tokenizer
    passages: list[CutPassage]
    statements: dict[Split, list[Statement]]
    questions: dict[Split, list[Asked]]
    prose: list[Prose]
    gold: Mapping[tuple[str, str, str], tuple[int, ...]]
    dropped: Counter[str] = field(default_factory=Counter)

    def gold_of(self, fact: Fact, answers: Iterable[str]) -> tuple[int, ...]:
        """Uids of the passages that state the fact with any of the answers."""
        return tuple(sorted({uid for answer in answers for uid in self.gold.get(_gold_key(fact, answer), ())}))


def build_demo_set(
    entities: Sequence[Entity],
    *,
    seed: int,
    passage_tokens: int,
    vocab_size: int,
    tokenizer_folder: Path,
    wording: Wording,
    on_progress: Callable[[str], None],
) -> DemoSet:
    """Make the demo's text of these entities; the tokenizer is written to its folder on the way."""
    on_progress("finding facts")
    facts, dropped = find_facts(entities)
    by_split: dict[Split, list[Fact]] = {split: [] for split in SPLITS}
    for fact in facts:
        if is_in_wording(fact):
            dropped["facts whose answer is in the question"] += 1
        else:
            by_split[split_of(fact, seed=seed)].append(fact)
    names = {name: entity.name for entity in entities for name in (entity.name, *entity.other_names)}
    secrets = {"train": Secrets([*by_split["dev"], *by_split["test"]], names), "dev": Secrets(by_split["test"], names)}
    for split in ("train", "dev"):
        by_split[split] = list(_untold(by_split[split], secrets[split], dropped, split=split))
    on_progress("training the vocabulary")
    articles = [(label, article) for entity in entities for label, article in articles_of(entity)]
    train_said = [said for fact in by_split["train"] for said in statements_of(fact, limit=99, seed=seed)]
    train_asked = [asked for fact in by_split["train"] for asked in questions_of(fact, limit=99, seed=seed)]
    texts = [text for _, article in articles for text in (article.title, article.lead, *article.sentences)]
    tokenizer = train_wordpiece(
        iter([*texts, *(said.text for said in train_said), *(asked.text for asked in train_asked)]),
        vocab_size=vocab_size,
        folder=tokenizer_folder,
    )
    on_progress("cutting passages")
    prose = [article for _, article in articles]
    passages = list(make_passages(prose, tokenizer, max_tokens=passage_tokens, dropped=dropped))
    on_progress("looking for the facts in the passages")
    gold = _find_gold(facts, passages, articles, tokenizer)
    demo = DemoSet(
        tokenizer=tokenizer, passages=passages, statements={}, questions={}, prose=[], gold=gold, dropped=dropped
    )
    for split in SPLITS:
        stated = list(_stated(by_split[split], gold, dropped))
        few = split == "train"
        num_said = wording.train_statements if few else wording.held_out_statements
        num_asked = wording.train_questions if few else wording.held_out_questions
        demo.statements[split] = [said for fact in stated for said in statements_of(fact, limit=num_said, seed=seed)]
        demo.questions[split] = [asked for fact in stated for asked in questions_of(fact, limit=num_asked, seed=seed)]
    _refuse_telling(demo, secrets)
    on_progress("finding salient spans")
    held_out = {
        uid for split in ("dev", "test") for fact in by_split[split] for uid in demo.gold_of(fact, fact.answers)
    }
    demo.prose = list(_prose(passages, articles, secrets["train"], held_out, dropped))
    return demo


def _untold(facts: Iterable[Fact], secrets: Secrets, dropped: Counter[str], *, split: Split) -> Iterator[Fact]:
    """The facts, less the answers that give a secret away."""
    for fact in facts:
        told = [answer for answer in fact.answers if secrets.told(answer, about=fact.subjects)]
        answers = tuple(answer for answer in fact.answers if answer not in told)
        if not told:
            yield fact
        elif answers and answers_are_equal(fact):
            dropped[f"{split} answers that tell a held-out fact"] += len(told)
            yield replace(fact, answers=answers)
        else:
            dropped[f"{split} facts that tell a held-out fact"] += 1


def _gold_key(fact: Fact, answer: str) -> tuple[str, str, str]:
    return fact.entity, fact.field, answer


def _find_gold(
    facts: Sequence[Fact],
    passages: Sequence[CutPassage],
    articles: Sequence[tuple[str, Article]],
    tokenizer: Tokenizer,
) -> dict[tuple[str, str, str], tuple[int, ...]]:
    """For every fact and answer the passages of its homes that hold the answer, wordpiece for wordpiece."""
    labels = {article.title: label for label, article in articles}
    homes: dict[tuple[str, str], list[tuple[CutPassage, str, str]]] = defaultdict(list)
    for cut in passages:
        words, pieces = normal(cut.passage.text), _joined(cut.passage.body_ids)
        homes[cut.article.article, labels[cut.article.title]].append((cut, words, pieces))
    answers = list(dict.fromkeys(answer for fact in facts for answer in fact.answers))
    ids_of = dict(zip(answers, tokenizer.encode_all(answers), strict=True))
    gold = {}
    for fact in facts:
        for answer in fact.answers:
            if len(ids_of[answer]) > MAX_ANSWER_TOKENS:
                continue
            wanted = _joined(ids_of[answer])
            gold[_gold_key(fact, answer)] = tuple(
                cut.passage.uid
                for entity, label, cue in fact.homes
                for cut, words, pieces in homes.get((entity, label), ())
                if wanted in pieces and (not cue or says(words, cue))
            )
    return gold


def _joined(ids: Sequence[int]) -> str:
    return f" {' '.join(map(str, ids))} "


def _stated(
    facts: Iterable[Fact], gold: Mapping[tuple[str, str, str], tuple[int, ...]], dropped: Counter[str]
) -> Iterator[Fact]:
    """Facts whose answer stands in a passage; of several answers those that do."""
    for fact in facts:
        found = tuple(answer for answer in fact.answers if gold.get(_gold_key(fact, answer)))
        if found and (found[0] == fact.answers[0] or answers_are_equal(fact)):
            yield replace(fact, answers=found)
        else:
            dropped["facts with no passage that holds their answer, or of too many wordpieces"] += 1


def _refuse_telling(demo: DemoSet, secrets: Mapping[str, Secrets]) -> None:
    """Remove wordings that give a secret away, whatever fact they were made for."""
    for split in ("train", "dev"):
        kept = [s for s in demo.statements[split] if not secrets[split].told(s.text, about=s.fact.subjects)]
        demo.dropped[f"{split} statements that tell a held-out fact"] = len(demo.statements[split]) - len(kept)
        demo.statements[split] = kept
        asked = [q for q in demo.questions[split] if not secrets[split].told(q.text, about=q.fact.subjects)]
        demo.dropped[f"{split} questions that tell a held-out fact"] = len(demo.questions[split]) - len(asked)
        demo.questions[split] = asked


def _prose(
    passages: Sequence[CutPassage],
    articles: Sequence[tuple[str, Article]],
    secrets: Secrets,
    held_out: set[int],
    dropped: Counter[str],
) -> Iterator[Prose]:
    titles = {article.title for label, article in articles if label in PROSE_FIELDS}
    sources = [cut for cut in passages if cut.article.title in titles]
    known = single_names([sentence for cut in sources for sentence in cut.sentences])
    for cut in sources:
        article, uid = cut.article, cut.passage.uid
        for number, sentence in enumerate(cut.sentences):
            if uid in held_out or secrets.told(sentence, about=(article.article,)):
                dropped["prose sentences that tell a held-out fact"] += 1
                continue
            if sentence[0].islower():
                dropped["prose sentences that are parts of one"] += 1
                continue
            # Apart from its passage a sentence must still say what it speaks of.
            text = sentence if says(normal(sentence), article.article) else f"{article.lead} {sentence}"
            lead = len(article.lead) if text.startswith(article.lead) else 0
            if spans := tuple(span[:2] for span in salient_spans(text, known=known) if span.start >= lead):
                yield Prose(
                    id=f"{article.title}/{uid}/{number}", text=text, spans=spans, origin_uid=uid,
                    origin_article=cut.passage.article,
                )  # fmt: skip
            else:
                dropped["prose sentences without a salient span"] += 1
