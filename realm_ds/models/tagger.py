"""A transformers token-classification model: texts to words and their tags. What tags mean is prepare's business."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from realm_ds.errors import ConfigError

BATCH_TOKENS = 4096
"""Wordpieces in a batch, padding counted: what suits a CPU's caches and fills a small GPU."""


class Word(NamedTuple):
    """A word of a text, its characters end exclusive, and its tag (B-PER)."""

    start: int
    end: int
    tag: str


class Tagger:
    """Tags the words of texts, each word as its first wordpiece is tagged, which is how such models are trained."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ConfigError(
                f"--model {folder}: no token-classification model of transformers ({reason}); name a folder that "
                "AutoModelForTokenClassification and AutoTokenizer open"
            ) from error
        if not self._tokenizer.is_fast:
            raise ConfigError(
                f"--model {folder}: its tokenizer does not say which characters a wordpiece is of; name a model with a "
                "tokenizer.json"
            )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device).eval()
        # Worker processes are the parallelism, and no sum depends on how many there are.
        torch.set_num_threads(1)
        self.tags: tuple[str, ...] = tuple(self._model.config.id2label[n] for n in sorted(self._model.config.id2label))
        longest = getattr(self._model.config, "max_position_embeddings", 512) - 2  # RoBERTa's first two are not used
        self._longest = min(self._tokenizer.model_max_length, longest)

    def tag(self, texts: Sequence[str]) -> list[list[Word]]:
        """The tagged words of each text. A text longer than the model takes is tagged piece by piece."""
        words: list[list[Word]] = [[] for _ in texts]
        if not texts:
            return words
        encoded = self._tokenizer(
            list(texts), truncation=True, max_length=self._longest, return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )  # fmt: skip
        tags = self._tag_rows(encoded["input_ids"])
        last = [-1] * len(texts)
        for row, text in enumerate(encoded["overflow_to_sample_mapping"]):
            pieces = zip(encoded.word_ids(row), encoded["offset_mapping"][row], tags[row], strict=True)
            for number, (start, end), tag in pieces:
                if number is None:  # [CLS], [SEP]
                    continue
                if number == last[text]:
                    words[text][-1] = words[text][-1]._replace(end=end)
                else:
                    words[text].append(Word(start, end, self.tags[tag]))
                    last[text] = number
        return words

    def _tag_rows(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        tags: list[list[int]] = [[] for _ in rows]
        for batch in _batches([len(row) for row in rows]):
            padded = self._tokenizer.pad({"input_ids": [rows[row] for row in batch]}, return_tensors="pt")
            with torch.inference_mode():
                logits_NLT = self._model(**padded.to(self._device)).logits
            for row, tags_L in zip(batch, logits_NLT.argmax(dim=-1).tolist(), strict=True):
                tags[row] = tags_L[: len(rows[row])]
        return tags


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows, alike in length, so many together that they have BATCH_TOKENS at most once padded."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and lengths[batch[0]] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
