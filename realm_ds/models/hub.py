"""A model by its name on the Hugging Face hub: found once, before ranks start; ranks read local files only."""

from pathlib import Path

from realm_ds.errors import ConfigError

MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""Of a repository; others hold the same weights for other frameworks."""
OLD_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""What older ones have instead."""


def encoder_folder(encoder: Path | str, *, download: bool = False) -> Path:
    """The folder of `model.encoder`: itself, or where the hub's cache on this host keeps the model of that name.

    With `download` it is fetched where it is not there yet. Raises ConfigError if there is none.
    """
    if isinstance(encoder, Path):
        return encoder
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(encoder, allow_patterns=list(patterns), local_files_only=not download))

    try:
        folder = fetch(*MODEL_FILES)
        return folder if any(folder.glob("*.safetensors")) else fetch(*MODEL_FILES, *OLD_FILES)
    except Exception as error:  # The hub's client raises many kinds; all mean that there is no model.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        where = "neither a folder here nor a model that the hub gives" if download else "not in this host's hub cache"
        raise ConfigError(
            f"model.encoder={encoder} is {where} ({reason}): run `hf download {encoder}` where there is a network, "
            "with HF_HOME on a disk that all ranks see, or name a folder"
        ) from error
