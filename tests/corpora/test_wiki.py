"""MediaWiki dumps: pages out of the stream, prose out of the markup."""

import bz2
import re

import pytest

from sapwood.corpora.draft import Draft, Drop, Meter, Raw
from sapwood.corpora.markup import plain_text
from sapwood.corpora.streams import Damaged
from sapwood.corpora.wiki import extract, records


def test_the_golden_article(kit):
    assert plain_text(kit.article) == (
        "Rome (Roma ) is the capital of Italy. It lies on the Tiber\n\n"
        "and is 21 km from the sea.\n\nHistory\n\nIts history spans 28 centuries. See the site."
    )


LEAKS = re.compile(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|<ref|</|'''|&[a-z]+;|thumb|\bFile:|Category:")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("a [[b|c]] [[d]]s [[:Category:E]] [[#f|g]]", "a c ds Category:E g"),
        ("a<ref>x {{cite|y=<b>}} [[z]]</ref> b<ref name=q /> c", "a b c"),
        ("a <ref>never closed [[b]] c", "a never closed b c"),
        ("x {{lang|fr|mot juste}} {{unknown|arg}} y", "x mot juste y"),
        ("{{nowrap|{{convert|5|to|7|km}}}} long", "5 to 7 km long"),
        ("{{a|{{b|{{c}}}}}} left", "left"),
        ("text {{open never closed", "text open never closed"),
        ("{|\n| cell || {{a}}\n{|\n| inner\n|}\n|}\nafter", "after"),
        ("{{box|\n{|\n| open table in a template\n}}\nafter", "after"),
        ("[[Datei:Bild.jpg|mini|Ein [[Bild]] {{a}}]]Danach", "Danach"),
        ("[[fr:Lien]] [[de-x:Artikel]] here", "here"),
        ("a <!-- b --> c <!-- d", "a c"),
        ("'''''bold''''' and ''it'' &amp; &lt;b&gt;", "bold and it & <b>"),
        ("* one\n** two\n# three\n; four", "one\n\ntwo\n\nthree\n\nfour"),
        ("-{zh-hans:计算机; zh-hant:電腦}- 和 -{简体}-", "计算机 和 简体"),
        ("a (; b) c (, ) d （，）e", "a (b) c d e"),
        ("== See also ==\n* [[x]]\n=== More ===\ny\n== Life ==\nz", "Life\n\nz"),
        ("== 参考文献 ==\n* 书\n== 历史 ==\n很长。", "历史\n\n很长。"),
        ("== Empty ==\n== Full ==\nwords", "Full\n\nwords"),
        ("line<br/>break", "line\n\nbreak"),
        ("a [http://x.org] b [http://y.org label] c http://z.org", "a b label c http://z.org"),
    ],
)
def test_markup(markup, text):
    assert plain_text(markup, "Datei") == text


@pytest.mark.parametrize(
    "markup",
    [
        "{{" * 40_000,
        "[[" * 40_000,
        "<ref>" * 40_000,
        "{{a|" * 20_000 + "}}" * 20_000,
        "<!--" * 40_000,
        "{|\n" * 30_000,
        "[[a|" * 20_000 + "]]" * 20_000,
        "-{" * 40_000,
    ],
    ids=[
        "open braces",
        "open links",
        "open notes",
        "nested",
        "comments",
        "tables",
        "links",
        "variants",
    ],
)
def test_hostile_markup_takes_no_time(markup):
    import time

    start = time.process_time()
    plain_text(markup)
    assert time.process_time() - start < 5


def dumped(tmp_path, text, name="dump.xml"):
    path = tmp_path / name
    path.write_bytes(bz2.compress(text.encode()) if name.endswith("bz2") else text.encode())
    return path


def test_pages_are_found_and_dropped_by_kind(tmp_path, kit):
    pages = [
        kit.page("Rome", kit.article),
        kit.page("Talk:Rome", "words", ns=1),
        kit.page("Old", "#REDIRECT [[Rome]]", extra='<redirect title="Rome"/>'),
        kit.page("Blank", " "),
    ]
    found = list(records(dumped(tmp_path, kit.dump(pages), "dump.xml.bz2"), Meter()))
    assert [one.id for one in found] == ["#1", "#2", "#3", "#4"]
    assert [one.reason for one in found if isinstance(one, Drop)] == [
        "no article (another namespace)",
        "redirect",
    ]
    (draft,) = extract(found[0])
    assert isinstance(draft, Draft)
    assert (draft.title, draft.url) == ("Rome", "https://en.wikipedia.org/wiki/Rome")
    assert not LEAKS.search(draft.text)
    assert next(extract(found[3])).reason == "empty"


def test_the_namespaces_of_the_wiki_are_used(tmp_path, kit):
    text = kit.dump([kit.page("A", "vor [[Kategorie:Stadt]][[datei:x.jpg|y]] nach")])
    (raw,) = records(dumped(tmp_path, text), Meter())
    assert next(extract(raw)).text == "vor nach"


def test_small_blocks_change_nothing(tmp_path, kit, monkeypatch):
    path = dumped(tmp_path, kit.dump([kit.page(f"P{n}", kit.prose(n)) for n in range(20)]))
    whole = list(records(path, Meter()))
    monkeypatch.setattr("sapwood.corpora.wiki.BLOCK", 97)
    assert list(records(path, Meter())) == whole
    assert len(whole) == 20


def test_a_dump_that_is_cut_off_says_so(tmp_path, kit):
    text = kit.dump([kit.page(f"P{n}", kit.prose(n)) for n in range(5)])
    path = dumped(tmp_path, text[: len(text) - 400])
    found = []
    with pytest.raises(Damaged, match="no </mediawiki> after 4 pages"):
        found.extend(records(path, Meter()))
    assert len(found) == 0 or len(found) == 4


def test_entities_that_grow_are_never_expanded(tmp_path, kit):
    bomb = '<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>\n'
    text = bomb + kit.dump([kit.page("A", "x").replace(">x<", ">&b;<")])
    (raw,) = records(dumped(tmp_path, text), Meter())
    assert next(extract(raw)).reason == "damaged XML"


def test_a_giant_page_is_dropped_without_being_held(tmp_path, kit, monkeypatch):
    monkeypatch.setattr("sapwood.corpora.wiki.LARGEST_RECORD", 50_000)
    monkeypatch.setattr("sapwood.corpora.wiki.BLOCK", 4096)
    pages = [kit.page("Big", "x" * 200_000), kit.page("Small", kit.prose(1))]
    found = list(records(dumped(tmp_path, kit.dump(pages)), Meter()))
    assert [type(one) for one in found] == [Drop, Raw]
    assert found[0].reason == "larger than 16 MiB"
