"""The WordPiece tokenizer of a run: train one, open one, turn text into ids. Special tokens are placed by batches.py.

The folder is an ordinary transformers one (BERT): `AutoTokenizer.from_pretrained` opens it too. Here it is read with
`tokenizers` alone, so that preparing data needs neither torch nor transformers. Which texts a vocabulary is trained on
is prepare/vocabulary.py's business.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from realm_ds.data.joined import JoinedEncoder
from realm_ds.data.records import MAX_TOKEN_ID, SpecialIds
from realm_ds.errors import ConfigError, DataError
from realm_ds.files import write_durably

MASK = "[MASK]"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", MASK)
"""In the order of their ids in a vocabulary trained here; [PAD] is 0 as in every BERT."""
MAX_ALPHABET = 400
"""Characters kept as wordpieces of their own, where nothing else is said; rarer ones become [UNK]."""
_NORMALIZER = {"do_lower_case": "lowercase", "strip_accents": "strip_accents",
               "tokenize_chinese_chars": "handle_chinese_chars"}  # fmt: skip
"""What transformers calls the settings of BERT's normalizer, and what `tokenizers` does."""


class Tokenizer:
    """Text to wordpiece ids and back, without special tokens: "[SEP]" in a text is text."""

    def __init__(self, backend: tokenizers.Tokenizer, *, where: Path) -> None:
        self._backend = backend
        self._backend.encode_special_tokens = True  # as text, not as their ids
        self._backend.no_padding()
        self._backend.no_truncation()
        self.special = _special_ids(backend, where=where)
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        if self.vocab_size > MAX_TOKEN_ID + 1:
            raise DataError(
                f"{where}: the vocabulary has {self.vocab_size} tokens, but tokens travel as uint16: at most "
                f"{MAX_TOKEN_ID + 1}; choose a smaller vocabulary"
            )
        self.fingerprint = _fingerprint(backend)
        """sha256 of vocabulary and settings: equal for tokenizers that give the same ids."""
        self._joined = JoinedEncoder(self._encode_batch, backend.get_vocab(with_added_tokens=False))

    def encode(self, text: str) -> list[int]:
        """The wordpieces of a text."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The wordpieces of every text, on all cores."""
        return self._joined.encode(texts)

    def _encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_questions(self, texts: Sequence[str]) -> list[list[int]]:
        """encode_all, where "[MASK]" stands for its special token: questions may ask for masked words."""
        parts = [text.split(MASK) for text in texts]
        encoded = iter(self.encode_all([part for of_text in parts for part in of_text]))
        questions = []
        for of_text in parts:
            ids = next(encoded)
            for _ in of_text[1:]:
                ids += [self.special.mask, *next(encoded)]
            questions.append(ids)
        return questions

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and for each the characters of `text` that it stands for, end exclusive."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_all_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """encode_with_offsets of every text, on all cores."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def encode_with_words(self, text: str) -> tuple[list[int], list[tuple[int, int]], list[int | None]]:
        """encode_with_offsets, and for each wordpiece the number of its word: what no cut may go through."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets, encoding.word_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Words of the ids as the vocabulary has them, special tokens left out."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The wordpieces as they stand in the vocabulary."""
        return [str(self._backend.id_to_token(token)) for token in ids]

    def save(self, folder: Path) -> None:
        """Write its folder, in the one form that we write, wherever it came from."""
        _write_folder(self._backend, folder)


def token_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """The wordpieces lying wholly within characters start..end, or None if there are none."""
    inside = [index for index, (low, high) in enumerate(offsets) if start <= low and high <= end]
    return (inside[0], inside[-1] + 1) if inside else None


def train_wordpiece(
    texts: Iterable[str], *, vocab_size: int, folder: Path, lowercase: bool = True, max_alphabet: int = MAX_ALPHABET
) -> Tokenizer:
    """Train a BERT WordPiece vocabulary and write its folder; the same texts, all in memory, give the same bytes."""
    check_vocab_size(vocab_size)
    backend = _bert(SPECIAL_TOKENS, {"lowercase": lowercase})
    backend.encode_special_tokens = True  # else the trainer sees the "[MASK]" of a text as one word
    kept = list(texts)
    # Every letter is two wordpieces: as the first of a word and as a later one.
    alphabet = _alphabet(kept, backend, most=min(max_alphabet, (vocab_size - len(SPECIAL_TOKENS)) // 2))
    if not alphabet:
        raise DataError(f"{folder}: no words to train a vocabulary on; give it texts that are not empty")
    # The trainer numbers the "##x" in the order of a hash map that differs from process to process, and breaks ties
    # between merges by those numbers. Named as special tokens they are numbered as listed.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *(f"##{letter}" for letter in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(kept, trainer)
    vocab = backend.get_vocab(with_added_tokens=True)
    tokenizer = Tokenizer(_bert(sorted(vocab, key=vocab.__getitem__), {"lowercase": lowercase}), where=folder)
    tokenizer.save(folder)
    return tokenizer


def check_vocab_size(vocab_size: int) -> None:
    """Raise ConfigError for a size that train_wordpiece cannot reach or tokens cannot travel with."""
    smallest = len(SPECIAL_TOKENS) + 100
    if not smallest <= vocab_size <= MAX_TOKEN_ID + 1:
        raise ConfigError(f"vocab_size={vocab_size}: choose one from {smallest} to {MAX_TOKEN_ID + 1}")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Open the folder of a WordPiece tokenizer: its tokenizer.json, or the vocab.txt of an older one."""
    fast, vocab = folder / "tokenizer.json", folder / "vocab.txt"
    if not fast.is_file() and not vocab.is_file():
        why = (
            "neither tokenizer.json nor vocab.txt" if folder.is_dir() else "it is no folder, and no hub is asked for it"
        )
        raise DataError(f"no tokenizer in {folder}: {why}; name a folder that has one (data.tokenizer, --tokenizer)")
    try:
        if fast.is_file():
            backend = tokenizers.Tokenizer.from_file(str(fast))
        else:
            tokens = vocab.read_text(encoding="utf-8").removesuffix("\n").split("\n")
            backend = _bert(tokens, _normalizer_settings(folder, tokens))
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(f"{folder}: the tokenizer cannot be read ({error}); copy it again") from error
    kind = type(backend.model).__name__
    if kind != "WordPiece":
        raise DataError(f"{folder}: a {kind} tokenizer, but REALM's encoders are BERT-like: give a WordPiece one")
    return Tokenizer(backend, where=folder)


def _alphabet(texts: Sequence[str], backend: tokenizers.Tokenizer, *, most: int) -> list[str]:
    """The most frequent characters, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    letters = [letter for letter in counts if not letter.isspace()]
    return sorted(sorted(letters, key=lambda letter: (-counts[letter], letter))[:most])


def _bert(vocab: Sequence[str], normalizer: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """What transformers builds for BERT from a list of wordpieces."""
    ids = {token: index for index, token in enumerate(vocab)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(**normalizer)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens([token for token in SPECIAL_TOKENS if token in ids])
    if "[CLS]" in ids and "[SEP]" in ids:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )
    return backend


def _write_folder(backend: tokenizers.Tokenizer, folder: Path) -> None:
    vocab = backend.get_vocab(with_added_tokens=True)
    normalizer = json.loads(backend.to_str())["normalizer"] or {}
    is_bert = normalizer.get("type") == "BertNormalizer"
    settings = {
        "tokenizer_class": "BertTokenizer" if is_bert else "PreTrainedTokenizerFast",
        **{theirs: normalizer[ours] for theirs, ours in _NORMALIZER.items() if is_bert},
        "model_max_length": 512,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    }
    files = {
        "vocab.txt": "".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__)),
        "tokenizer.json": backend.to_str(pretty=False) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=1) + "\n",
    }
    try:
        for name, text in files.items():
            write_durably(folder / name, text)
    except OSError as error:
        raise DataError(
            f"cannot write the tokenizer to {folder}: {error.strerror or error}; free space or choose another folder"
        ) from error


def _normalizer_settings(folder: Path, tokens: Sequence[str]) -> dict[str, Any]:
    """Of a folder that has no tokenizer.json. Where nothing says so, capitals in the vocabulary make it a cased one."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    has_capitals = any(token != token.lower() for token in tokens if token not in SPECIAL_TOKENS and token[:1] != "[")
    said = {ours: settings[theirs] for theirs, ours in _NORMALIZER.items() if theirs in settings}
    return {"lowercase": not has_capitals, **said}


def _special_ids(backend: tokenizers.Tokenizer, *, where: Path) -> SpecialIds:
    vocab: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    if missing := [token for token in SPECIAL_TOKENS if token not in vocab]:
        raise DataError(f"{where}: the vocabulary lacks {', '.join(missing)}; give a BERT-like tokenizer")
    ids = {token: vocab[token] for token in SPECIAL_TOKENS}
    return SpecialIds(pad=ids["[PAD]"], cls=ids["[CLS]"], sep=ids["[SEP]"], mask=ids["[MASK]"], unk=ids["[UNK]"])


def _fingerprint(backend: tokenizers.Tokenizer) -> str:
    # Not the file's bytes: libraries of other versions write the same tokenizer in other words.
    vocab = backend.get_vocab(with_added_tokens=True)
    settings = json.loads(backend.to_str())
    tokens = sorted(vocab.items(), key=lambda item: (item[1], item[0]))
    parts = [tokens, settings["normalizer"], settings["pre_tokenizer"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
