"""Prose from wikitext: what a reader sees is kept, the rest is gone, and wreckage costs no more than its length."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.prepare.documents import Document
from realm_ds.prepare.wikitext import plain_text, prose

CASES = {
    "links": (
        "The [[cat]]s and [[dog|hounds]] of [[:fr:Paris|Paris]], [[Ulm (city)]].",
        "The cats and hounds of Paris, Ulm (city).",
    ),
    "no prose": ("A.[[Category:B]][[fr:A]][[zh-min-nan:A]]\n[[Datei:x.png]]", "A."),
    "file": ("[[File:x.jpg|thumb|A [[cat|big [[red]] cat]] {{lang|fr|chat}}]]Rest.", "Rest."),
    "external": ("See [http://a.org/x the site] and [https://b.org], [//c.org c].", "See the site and, c."),
    "brackets": ("He said [sic] that a[1] is.", "He said [sic] that a[1] is."),
    "styles": ("'''Bold''' and ''italic'' and '''''both''''' of L'Oréal's.", "Bold and italic and both of L'Oréal's."),
    "entities": ("5&nbsp;km &amp; 3&thinsp;m &ndash; &#945; &lt;b&gt;", "5 km & 3 m – α <b>"),
    "comments": ("One<!-- two {{ -->three<!-- never closed", "Onethree"),
    "references": ('A.<ref>b [[c]]</ref> D.<ref name="e" /> F.<REF name=g>h</Ref>', "A. D. F."),
    "reference that never closes": ("A.<ref>b. C.", "A.b. C."),
    "tags": ("x<sub>1</sub> <span style='a'>b</span><br/>c <math>\\frac{1}{2}</math><code>d</code>", "x1 b c"),
    "blocks": ("a<blockquote>b</blockquote>c<p>d", "a\nb\nc\nd"),
    "nowiki": ("a <nowiki>[[b]] {{c}}</nowiki> d", "a [[b]] {{c}} d"),
    "templates": ("A{{cite web|url=x|{{b}}}} b{{unknown\n|x=1\n}}.", "A b."),
    "kept": (
        "{{lang|fr|chat}}, {{Lang-de|Katze}}, {{convert|5|km|mi|abbr=on}}, {{convert|5|-|7|sqmi}}, {{frac|1|2}}",
        "chat, Katze, 5 km, 5–7 sq mi, 1/2",
    ),
    "kept too": (
        "{{circa|1900}} {{ndash}} {{USS|Enterprise}} {{formatnum:1,000}} {{nowrap|1=a=b}} {{transl|ar|x}}",
        "c. 1900 – USS Enterprise 1,000 a=b x",
    ),
    "kept without arguments": ("a {{lang}}{{convert}}{{frac}}{{transl}}{{quote}}b", "a b"),
    "holes": (
        "Goethe ({{IPA|de|x}}; {{y}}, 1749) was ({{z}}) here {{a}}, {{b}}, there.",
        "Goethe (1749) was here, there.",
    ),
    "more holes": (
        "Afghanistan (Dari: {{x}}, ''Afġ'' {{y}}; {{z}}), too.\n\n{{a}}. It ({{b}}–{{c}}) is: {{d}}. (–40, a 8-)",
        "Afghanistan (Dari, Afġ), too.\nIt is. (–40, a 8-)",
    ),
    "words of a sentence": (
        "''Eagle''{{'s}} {{chem|C|O|2}} said {{angbr|a}} or {{IPA|/a/}}{{mdashb}}{{val|6.2|e=18|u=kg}} at 5{{e|9}}.",
        "Eagle's CO2 said ⟨a⟩ or /a/—6.2 × 10^18 kg at 5 × 10^9.",
    ),
    "dates": (
        "{{As of|2014}}, {{as of|2015|6|30|lc=y}} and {{as of|2015|June}}; {{circa|1900|1950}}. {{as of}}."
        " {{as of|2010|" + "1" * 5000 + "}}.",
        "As of 2014, as of 30 June 2015 and As of June 2015; c. 1900–c. 1950. As of. As of " + "1" * 5000 + " 2010.",
    ),
    "measures": (
        "{{convert|5|ft|6|in|cm}}, {{cvt|60|and(-)|80|kg}}, {{convert|2|oilbbl/d}}, {{convert|9|to|10|C|sigfig=2}}",
        "5 ft 6 in, 60 and 80 kg, 2 barrels per day, 9 to 10 °C",
    ),
    "names": (
        "{{nihongo||合気道|aikidō}}, {{USS|Hornet|CV-12|6}}, {{script|Copt|Ⲁ}}, {{ill|a|de|b|lt=c}}, {{lang-xx|1=d}}",
        "aikidō, USS Hornet, Ⲁ, c, d",
    ),
    "quotes": ("It said:{{quote|text=So\nit is.|author=A}}{{blockquote}}Then", "It said:\nSo it is.\nThen"),
    "formulas": (
        "The <math>v_{k}+1</math> of <math>\\bar x</math>10<sup>9</sup> m<sup>2</sup> 9<sup>th</sup> <math>",
        "The v_k+1 of 10^9 m2 9th",
    ),
    "lines of a paragraph": ("a\nb\n c\n d\n* e\nf\ng\n== H ==\nh\n\ni<br>j<p>k", "a b\nc\nd\ne\nf g\nh\ni j\nk"),
    "tables": ("a\n{| class=x\n|-\n| b [[c]]\n{|\n| d\n|}\n|}\ne", "a\ne"),
    "table that never closes": ("a\n{| class=x\n|-\n| b\n\n== H ==\nc", "a\nc"),
    "lists": ("* one\n** two\n#: three\n; four\n----\n: ", "one\ntwo\nthree\nfour"),
    "magic": ("__NOTOC__A __init__ b.", "A __init__ b."),
    "sections": (
        "a\n== B ==\nb\n==See also==\n* c\n=== D ===\nd\n== E ==\ne\n== References ==\nf\n=G=\ng",
        "a\nb\ne\ng",
    ),
    "paragraphs": ("a [[b\n\nc]] d {{e\n\nf}} g", "a b\nc d g"),
    "unclosed template": ("a {{b\n| c = [[d]]\ne\n== F ==\n{{g}}h}}", "a b\ne\nh"),
    "parameter": ("a {{{1|b}}} c", "a } c"),
    "invisible": ("Mc\u00adDonald \u200bx\u00a0\u3000y\r\nz", "McDonald x y z"),
    "right to left": ("'''ירושלים''' ([[ערבית|ערבית]]: القدس)", "ירושלים (ערבית: القدس)"),
    "no words": ("·\n***\n...\n(, )", ""),
}


@pytest.mark.parametrize(("wikitext", "expected"), CASES.values(), ids=CASES)
def test_what_a_reader_sees(wikitext: str, expected: str) -> None:
    assert prose(wikitext) == expected


def test_only_wikitext_is_read_as_such() -> None:
    for markup, expected in (("plain", "[[a]]"), ("wikitext", "a")):
        document = Document(id="1", title="t", text="[[a]]", markup=markup, where="w")  # type: ignore[arg-type]
        assert plain_text(document) == expected


WORDS = st.text("abcdefg", min_size=1, max_size=5)
PIECES = st.recursive(
    WORDS.map(lambda word: (word, word)),
    lambda inner: st.one_of(
        inner.map(lambda pair: (f"[[target|{pair[0]}]]", pair[1])),
        inner.map(lambda pair: (f"[http://x.org {pair[0]}]", pair[1])),
        inner.map(lambda pair: (f"{{{{lang|fr|{pair[0]}}}}}", pair[1])),
        inner.map(lambda pair: (f"<span>{pair[0]}</span>", pair[1])),
        inner.map(lambda pair: (f"'''{pair[0]}'''", pair[1])),
        inner.map(lambda pair: (f"{pair[0]}<ref>{{{{cite|{pair[1]}}}}}</ref>", pair[1])),
        inner.map(lambda pair: (f"{{{{infobox|a={pair[0]}}}}}", "")),
        inner.map(lambda pair: (f"[[File:x.png|thumb|{pair[0]}]]", "")),
        inner.map(lambda pair: (f"<!-- {pair[1]} -->", "")),
        st.tuples(inner, inner).map(lambda pairs: (f"{pairs[0][0]} {pairs[1][0]}", f"{pairs[0][1]} {pairs[1][1]}")),
    ),
    max_leaves=8,
)
"""Well-formed wikitext beside what is read of it. References and comments hold plain words: neither nests."""


@given(st.lists(PIECES, max_size=5))
def test_whatever_is_nested_in_what(pieces: list[tuple[str, str]]) -> None:
    expected = [" ".join(read.split()) for _, read in pieces]
    assert prose("\n\n".join(written for written, _ in pieces)) == "\n".join(filter(None, expected))


MARKS = [
    "{{", "}}", "[[", "]]", "{|", "|}", "[http://a ", "]", "|", "\n", "\n\n", "\n==", "==\n", "=", "'", "<", ">",
    "<ref>", "</ref>", "<ref name=", "<div>", "<nowiki>", "<!--", "-->", "&", "&amp;", "&#", "*", ":", "(", ", ", " ",
    "a", "lang|", "File:", "__A", "{{a|", "[[a|", "[[File:a|[[b|", "{{convert|1|", "\x00", "\u202e", "\ud800",
]  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.sampled_from(MARKS), max_size=60))
def test_no_wreckage_is_too_much(marks: list[str]) -> None:
    found = prose("".join(marks))
    assert "<ref>" not in found
    assert found == "\n".join(line for line in found.split("\n") if line.strip())


@pytest.mark.parametrize("mark", MARKS)
def test_wreckage_costs_what_its_length_costs(mark: str) -> None:
    started_at = time.process_time()
    prose(mark * (100_000 // len(mark)))
    assert time.process_time() - started_at < 3.0  # 0.2 here; minutes if it went back


@pytest.mark.parametrize(("opens", "closes"), [("{{a|", "}}"), ("[[a|", "]]"), ("{|\n", "\n|}\n"), ("<ref>", "</ref>")])
def test_so_does_what_is_nested_deep(opens: str, closes: str) -> None:
    started_at = time.process_time()
    found = prose(f"before {opens * 20_000} inside {closes * 20_000} behind")
    assert time.process_time() - started_at < 3.0
    assert "before" in found
    assert "behind" in found
