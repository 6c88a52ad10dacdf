"""Text to clean sentences, by rule: what is mended in a text, and where its sentences and clauses end.

Rules and no library: nltk's punkt must be downloaded, pysbd takes longer than tokenising does, and both know fewer
scripts. What a rule gets wrong puts a sentence's end elsewhere; no word is lost by it.
"""

import re
from collections import Counter

from realm_ds.prepare.documents import Tally

_OPEN, _CLOSE = "\"'(\\[\u201c\u2018\u00ab\u00bf\u00a1", "\"')\\]\u201d\u2019\u00bb"
# What a full stop behind it ends nothing of: always; unless a word of _OPENS follows; where a number follows.
_ABBREVIATION = re.compile(
    r"""\b(?:
      (?P<always>Dr|Mr|Mrs|Ms|Mme|Mlle|Messrs|Prof|Rev|Fr|Msgr|Hon|St|Ste|Mt|Ft|Gov|Sen|Rep|Pres|Gen|Brig|Col|Lt|Capt
        |Cpt|Sgt|Cpl|Pvt|Cdr|Cmdr|Adm|Maj|vs|v|cf|incl|esp|aka|a\.k\.a|ie|i\.e|eg|e\.g|viz)
    | (?P<mostly>(?<![\u00b0\u2032\u2033])(?<!\u00b0\ )[A-Z]|Jr|Sr|Inc|Co|Corp|Ltd|Bros|sq
        |a\.m|p\.m|B\.C|A\.D|U\.S|U\.K|U\.N|D\.C|Ph\.D)
    | (?P<before_a_number>[Nn]os?|Art|[Vv]ols?|[Oo]ps?|[Ff]igs?|[Cc]h|[Ss]ec|pp?|pg|al|approx|est|ca?|[bdr]|fl
        |Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)
    )\.$""",
    re.VERBOSE,
)
_LONGEST_ABBREVIATION = len(" approx.")
_OPENING_WORDS = """
    The This That These Those There In It Its He She They We You His Her Their However After Although As At By But For
    From If On Since To When While Where With And An Another Because Before Between Both Despite During Due Each
    Following Later Many Most Other Some Such Then Through Thus Today Until What Who Also According Only"""
_OPENS = frozenset(_OPENING_WORDS.split())
"""Words of a capital letter that open a sentence and no name."""
# The group is the word that the next sentence begins with: with a digit, or a letter that is not Latin and small.
_SENTENCE_END = re.compile(rf"[.!?][{_CLOSE}]*\s+(?=[{_OPEN}]*([^\W_a-z\u00df-\u00f6\u00f8-\u00ff]\w{{0,20}}))")
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
            found = _ABBREVIATION.search(line, max(start, mark - _LONGEST_ABBREVIATION), mark)
            if match[1][0].islower() or (found and _goes_on(found, match[1])):
                continue
            sentences.append(line[start : match.end()].strip())
            start = match.end()
        sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _goes_on(abbreviation: re.Match[str], word: str) -> bool:
    """Does the sentence, though this word follows the abbreviation?"""
    if abbreviation["before_a_number"]:
        return word[0].isdigit()
    return abbreviation["always"] is not None or word not in _OPENS
