"""Text to clean sentences, by rule: what is mended in a text, and where its sentences and clauses end.

Rules and no library: nltk's punkt must be downloaded, pysbd takes longer than tokenising does, and both know fewer
scripts. What a rule gets wrong puts a sentence's end elsewhere; no word is lost by it.
"""

import re
from collections import Counter

from realm_ds.prepare.documents import Tally

_OPEN, _CLOSE = "\"'(\\[\u201c\u2018\u00ab\u00bf\u00a1", "\"')\\]\u201d\u2019\u00bb"
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|St|Mt|Ft|Dr|Mr|Mrs|Ms|Jr|Sr|Gen|Col|Lt|Capt|Sgt|Adm|Maj|Rev|Hon|Prof|Gov|Sen|Rep|No|Nos|Art|Inc"
    r"|Co|Corp|Ltd|vs|cf|ca|c|approx|est|incl|esp|aka|ie|eg|etc|sq|i\.e|e\.g|a\.m|p\.m|B\.C|A\.D|U\.S|U\.N|D\.C"
    r"|Ph\.D))\.$"
)
_LONGEST_ABBREVIATION = len(" approx.")
# The group is what the next sentence begins with: a digit, or a letter that is not Latin and small.
_SENTENCE_END = re.compile(rf"[.!?][{_CLOSE}]*\s+(?=[{_OPEN}]*([^\W_a-z\u00df-\u00f6\u00f8-\u00ff]))")
# Marks of Chinese and Japanese, with what closes a quotation there; of Arabic and Urdu; of Devanagari and its kin;
# of Armenian, Ethiopic, Burmese, Khmer, Tibetan. They end nothing else, so nothing needs to follow.
_OTHER_MARK = re.compile(
    "[\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965\u0589\u1362\u104b\u17d4\u0f0d]+[\u300d\u300f\uff09\u3011\u201d\u2019\u00bb]*"
)
CLAUSE_ENDS = (
    re.compile(r";\s+|[\uff1b\u061b]"),
    re.compile(r"\s+(?:--|-|\u2013|\u2014)\s+"),
    re.compile(r":\s+|\uff1a"),
    re.compile(r",\s+(?![^()]*\))|[\uff0c\u3001\u060c]"),  # not within brackets
    re.compile(r",\s+"),
    re.compile(r"\s+(?=\()"),
    re.compile(r"\s+(?=(?:and|or|but|which|that|who|where|while|with|by|from|in|on|to|of|for|as|at)\s)"),
)
"""Where a sentence that is too long is divided, the coarsest first."""
SPACE = re.compile(r"\s+")

_LINE_ENDS = "\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029"
_SPACES = "\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_LEFT_OUT = {
    "control characters left out": "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f",
    # Not U+200C and U+200D: Persian and the scripts of India spell with them.
    "invisible characters left out": "\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff",
    "unreadable characters left out": "\ufff9-\uffff\ud800-\udfff",
}
_UNUSUAL = re.compile(f"[{_LINE_ENDS}{_SPACES}{''.join(_LEFT_OUT.values())}]")
_RUN_OF_SPACES = re.compile("  +")


def clean(text: str, *, tally: Tally, where: str) -> str:
    """The text as passages hold it: lines end in newlines, words are one space apart, and what nobody sees is gone.

    Left out and counted: control characters, null bytes among them; soft hyphens, zero-width and direction marks, byte
    order marks; U+FFFD, which stands for bytes that were no text, and halves of surrogate pairs. BERT's tokenizer
    passes over all of them, so wordpieces stay as they are. So do letters (no NFC): that too is the tokenizer's
    business, and Wikipedia's are composed already.
    """
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    if counts := Counter(_UNUSUAL.findall(text)):
        text = _UNUSUAL.sub(lambda found: _MENDED[found[0]], text)
        for character, number in counts.items():
            if what := _WHY.get(character):
                tally.add(what, where=where, number=number)
    return _RUN_OF_SPACES.sub(" ", text) if "  " in text else text


def _characters(ranges: str) -> list[str]:
    """All of a regular expression's class."""
    found = re.findall("(.)(?:-(.))?", ranges, re.DOTALL)
    return [chr(code) for first, last in found for code in range(ord(first), ord(last or first) + 1)]


_WHY = {character: what for what, ranges in _LEFT_OUT.items() for character in _characters(ranges)}
_MENDED = {
    **dict.fromkeys(_characters(_LINE_ENDS), "\n"),
    **dict.fromkeys(_characters(_SPACES), " "),
    **dict.fromkeys(_WHY, ""),
}


def split_sentences(text: str) -> list[str]:
    """The sentences of clean prose; a line break always ends one. Takes time in proportion to the text."""
    if not text.isascii():
        text = _OTHER_MARK.sub("\\g<0>\n", text)
    sentences: list[str] = []
    for line in text.splitlines():
        start = 0
        for match in _SENTENCE_END.finditer(line):
            mark = match.start() + 1
            if match[1].islower() or _ABBREVIATION.search(line, max(start, mark - _LONGEST_ABBREVIATION), mark):
                continue
            sentences.append(line[start : match.end()].strip())
            start = match.end()
        sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]
