"""Which questions have an answer somewhere in a corpus, and in which passages: one pass over its shards.

All answers are looked for at once (Aho-Corasick), so the time is that of the text, whatever the number of questions.
What an answer is, and what holds one, is data/answers.py's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from realm_ds.data.answers import normalise, regex_matches
from realm_ds.data.records import Passage, Question
from realm_ds.data.shards import Shards
from realm_ds.prepare.regex_literals import fold, required_literals
from realm_ds.prepare.workers import work_in_order

Found = dict[int, list[int]]
"""Uids of passages by the number of the question whose answer they hold."""


def passages_with_answers(
    questions: Sequence[Question],
    corpus: Shards,
    *,
    most: int = 1,
    workers: int = 0,
    before: Sequence[Found] = (),
    keep: Callable[[int, Found], None] = lambda shard, found: None,
    on_progress: Callable[[int], None] = lambda num_passages: None,
) -> list[tuple[int, ...]]:
    """Of each question the uids of the first `most` passages, in the order of the corpus, that hold an answer.

    The same for any number of workers, which take a shard at a time; 0: this process. In memory are the answers, once
    for each worker, and what was found. `keep` is told what was found in each shard, in order; handed in as `before`,
    the first shards are not searched again.
    """
    found: list[list[int]] = [[] for _ in questions]
    has_enough = bytearray(len(questions))

    def take(found_here: Found) -> None:
        for number, uids in found_here.items():
            found[number] += uids[: most - len(found[number])]
            has_enough[number] = len(found[number]) == most

    for found_here in before:
        take(found_here)
    starts = (*corpus.firsts, corpus.count)
    on_progress(starts[len(before)])
    left = range(len(before), len(corpus.firsts))
    # What is known by then goes with each shard: what is common ("two") need not be looked for again and again.
    chunks = ((shard, bytes(has_enough)) for shard in left)
    with closing(work_in_order(chunks, partial(_start, questions, corpus, most=most), workers=workers)) as results:
        for shard, found_here in zip(left, results, strict=True):
            keep(shard, found_here)
            take(found_here)
            on_progress(starts[shard + 1])
    return [tuple(uids) for uids in found]


class AnswerSearch:
    """The answers of many questions, ready to be found in any text."""

    def __init__(self, questions: Sequence[Question], *, most: int) -> None:
        self._most = most
        self._has_enough = self._nothing = bytes(len(questions))
        owners: dict[str, list[int]] = {}
        literals: dict[str, list[int]] = {}
        self._regexes: dict[int, tuple[str, ...]] = {}
        self._unruled: list[int] = []
        """Regex questions that no literal rules out."""
        for number, question in enumerate(questions):
            if not question.is_regex:
                for answer in {normalise(answer) for answer in question.answers} - {""}:
                    owners.setdefault(f" {answer} ", []).append(number)
                continue
            self._regexes[number] = question.answers
            required = [required_literals(answer) for answer in question.answers]
            if None in required:
                self._unruled.append(number)
                continue
            for literal in frozenset().union(*filter(None, required)):
                literals.setdefault(literal, []).append(number)
        self._owners, self._words = list(owners.values()), _automaton(owners)
        self._literal_owners, self._literals = list(literals.values()), _automaton(literals)

    def search(self, passages: Iterator[Passage], *, has_enough: bytes = b"") -> Found:
        """The first `most` passages of each question, among these; `has_enough` is true of those that want none."""
        self._has_enough = has_enough or self._nothing
        found: Found = {}
        done: set[int] = set()
        """Words all of whose questions have passages enough: common ones ("two") are met in every passage."""
        for passage in passages:
            for word in _matches(self._words, f" {normalise(passage.text)} ") - done:
                wanting = [number for number in self._owners[word] if self._add(found, number, passage.uid)]
                if not wanting:
                    done.add(word)
            for number in self._candidates(passage.text):
                if self._wants(found, number) and self._is_matched(number, passage.text):
                    self._add(found, number, passage.uid)
        return found

    def _add(self, found: Found, number: int, uid: int) -> bool:
        """Note a passage, unless there are enough; returns whether more are wanted."""
        if self._wants(found, number) and uid not in found.get(number, ())[-1:]:
            found.setdefault(number, []).append(uid)
        return self._wants(found, number)

    def _wants(self, found: Found, number: int) -> bool:
        return not self._has_enough[number] and len(found.get(number, ())) < self._most

    def _candidates(self, text: str) -> set[int]:
        matched = _matches(self._literals, fold(text)) if self._regexes else set()
        return {number for literal in matched for number in self._literal_owners[literal]}.union(self._unruled)

    def _is_matched(self, number: int, text: str) -> bool:
        return any(regex_matches(answer, text) for answer in self._regexes[number])


def _automaton(strings: dict[str, list[int]]) -> Any:
    """All of the strings, numbered; None if there are none."""
    from ahocorasick import STORE_INTS, Automaton

    automaton = Automaton(STORE_INTS)
    for number, string in enumerate(strings):
        automaton.add_word(string, number)
    automaton.make_automaton()
    return automaton if strings else None


def _matches(automaton: Any, text: str) -> set[int]:
    return set() if automaton is None else {number for _, number in automaton.iter(text)}


def _start(questions: Sequence[Question], corpus: Shards, *, most: int) -> Callable[[tuple[int, bytes]], Found]:
    return partial(_search_shard, AnswerSearch(questions, most=most), corpus)


def _search_shard(search: AnswerSearch, corpus: Shards, chunk: tuple[int, bytes]) -> Found:
    shard, has_enough = chunk
    first = corpus.firsts[shard]
    passages = corpus.passages(first, first + corpus.manifest.shards[shard].count)
    return search.search(passages, has_enough=has_enough)
