"""Is what pre-training is to be measured and probed with there, readable, and not what it trains on?"""

from realm_ds.config.schema import RealmConfig
from realm_ds.data.question_files import load_questions, refuse_regexes
from realm_ds.data.shards import open_shards
from realm_ds.errors import ConfigError, DataError


def check_evaluation(config: RealmConfig, *, fingerprint: str) -> None:
    """Look at data.held_out and the files of section evaluate, unless nothing is to be asked of them.

    Raises DataError or ConfigError for what is wrong.
    """
    settings, held_out = config.evaluate, config.data.held_out
    if settings.every_steps is None and not settings.num_probes:
        return
    if settings.every_steps is not None and held_out is None and settings.questions is None:
        raise ConfigError(
            f"evaluate.every_steps={settings.every_steps}, but there is nothing to evaluate: name data.held_out (tar "
            "shards like those of data.pretrain) or evaluate.questions (a JSONL file), or both, or set "
            "evaluate.every_steps=null"
        )
    if held_out is not None:
        _check_sentences(config, fingerprint=fingerprint)
    if settings.questions is not None:
        questions = load_questions(settings.questions, needed_by="mend evaluate.questions, or set it to null")
        refuse_regexes(
            [question for question in questions if not question.gold_uids],
            why=f"evaluate.questions={settings.questions}: while training goes on answers are looked for as "
            "wordpieces, not as regexes, unless a question has gold_uids (prepare qa --link)",
        )
    if settings.probes is not None:
        load_questions(settings.probes, needed_by="mend evaluate.probes, or set it to null", are_answered=False)


def _check_sentences(config: RealmConfig, *, fingerprint: str) -> None:
    held_out, timeout_s = config.data.held_out, config.runtime.wait_timeout_s
    assert held_out is not None
    try:
        sentences = open_shards(held_out, kind="pretrain", fingerprint=fingerprint, timeout_s=timeout_s)
    except DataError as error:
        raise DataError(f"data.held_out: {error}") from error
    trained = open_shards(config.data.pretrain_place, kind="pretrain", fingerprint=None, timeout_s=timeout_s)
    if sentences.digest == trained.digest:
        raise ConfigError(
            f"data.held_out={held_out} holds the same sentences as data.pretrain={config.data.pretrain}: what is "
            "trained on tells nothing of what is not; name shards of other text"
        )
