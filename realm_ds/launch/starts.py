"""Do the weights that a run starts from fit it? What is asked of their folders is models/names.py's business, and their
sizes are models/sizes.py's."""

from pathlib import Path

from realm_ds.config.schema import ModelConfig
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import ConfigError
from realm_ds.models.names import check_encoder_start, check_start
from realm_ds.models.sizes import check_start_sizes


def check_starts(model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Look at model.encoder, start_from and encoder_from.

    Raises ConfigError for what does not fit, CheckpointError or DataError for what is absent or damaged.
    """
    if isinstance(model.encoder, Path) and not model.encoder.is_dir():
        raise ConfigError(
            f"model.encoder={model.encoder} is no folder: name one with a BERT-like transformers model, or a "
            "model on the hub such as google-bert/bert-base-uncased"
        )
    if model.start_from is not None:
        check_start(model.start_from)
    if model.encoder_from is not None:
        check_encoder_start(model.encoder_from)
    check_start_sizes(model, vocabulary=tokenizer.vocab_size)
    for setting, folder in {"start_from": model.start_from, "encoder_from": model.encoder_from}.items():
        if folder is not None:
            _check_tokenizer(setting, folder, tokenizer)


def _check_tokenizer(setting: str, folder: Path, tokenizer: Tokenizer) -> None:
    """An export has its tokenizer beside it; of as many other wordpieces its weights would make noise."""
    own = folder / "tokenizer"
    if own.is_dir() and load_tokenizer(own).fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"model.{setting}={folder} was trained with another tokenizer than data.tokenizer: name {own}, and prepare "
            "the data with it"
        )
