"""The questions of a fine-tuning, looked at before any process is started for it."""

from collections.abc import Callable

from realm_ds.config.stages import QaConfig
from realm_ds.data.question_files import load_questions, refuse_regexes
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.data.words import one_word_questions


def check_questions(settings: QaConfig, tokenizer: Tokenizer, *, remark: Callable[[str], None]) -> None:
    """Open all splits. Raises DataError for those that are absent or damaged, or where there is nothing to learn from;
    of what will not be learned from people are told by `remark`."""
    splits = {split: load_questions(settings.folder / f"{split}.jsonl") for split in ("train", "dev", "test")}
    train, where = splits["train"], settings.folder / "train.jsonl"
    refuse_regexes(train, why=f"{where}: a reader learns from words and spans that equal an answer, not from regexes")
    if settings.answer_by == "masked_word":
        num_asked = len(one_word_questions(train, tokenizer, where=where))
        if num_asked < len(train):
            remark(
                f"{len(train) - num_asked} of the {len(train)} questions of {where} have no answer of one wordpiece: "
                "they are left out (qa.answer_by=masked_word); of dev and test such questions count as wrong"
            )
