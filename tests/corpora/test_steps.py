"""The steps of a document, English and Chinese: what stays, what goes and why, twice is once."""

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.corpora.draft import Draft, Drop, counted, in_parts, through
from sapwood.corpora.languages import language_of, language_step
from sapwood.corpora.normalise import normal, normalise
from sapwood.corpora.overlap import kept_out, ngrams, overlap_step
from sapwood.corpora.private import is_identity, mask, masked
from sapwood.corpora.quality import SETTINGS, content_lines, quality
from sapwood.corpora.repetition import repeated
from sapwood.corpora.words import units
from sapwood.errors import DataError


def web(text: str, language: str = "en") -> Draft:
    return Draft(id="x", text=text, language=language, rules="web")


# normalise


def test_normal_text():
    assert (
        normal("  a\u0301 b\t\tc \r\nd\x00\x07\n\n\n\n　　春　　眠\ufeff。 ")
        == "á b c\nd\n\n春 眠。"
    )
    assert normalise(Draft(id="x", text=" \x00\n ")) == Drop(reason="empty")
    mojibake = "GrÃ¶ÃŸe"
    assert normal(mojibake) == mojibake


@given(st.text())
def test_normal_twice_is_normal(text):
    once = normal(text)
    assert normal(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(char in once for char in "\x00\r\t\u200b")
    assert "\n\n\n" not in once


# parts


def test_a_long_text_is_cut_where_paragraphs_end():
    text = "\n\n".join(f"{n} " + "x" * 30 for n in range(10))
    parts = list(in_parts(Draft(id="d", text=text), largest=100))
    assert [part.id for part in parts] == [f"d.{n}" for n in range(1, len(parts) + 1)]
    assert "\n\n".join(part.text for part in parts) == text
    assert all(len(part.text) <= 100 for part in parts)
    assert list(in_parts(Draft(id="d", text="short"))) == [Draft(id="d", text="short")]
    assert [len(p.text) for p in in_parts(Draft(id="d", text="y" * 250), largest=100)] == [
        100,
        100,
        50,
    ]


# language


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("It was the best of times, it was the worst of times.", "en"),
        ("C'était le meilleur des temps, c'était le pire des temps.", "fr"),
        ("兰叶春葳蕤，桂华秋皎洁。", "zh"),
        ("秦川雄帝宅，函谷壯皇居。綺殿千尋起，離宮百雉餘。", "zh"),
        ("我们在 Debian GNU/Linux 上用 apt-get install 来安装软件包", "zh"),
        ("これは日本語の文章です。東京に行きました。", "ja"),
        ("이것은 한국어 문장입니다.", "ko"),
        ("1234 5678", "und"),
    ],
)
def test_languages(text, code):
    assert language_of(text)[0] == code


def test_only_wanted_languages_stay():
    step = language_step(["en", "zh"])
    kept = step(Draft(id="x", text="我们去北京看长城，天气非常好。"))
    assert isinstance(kept, Draft) and kept.language == "zh"
    french = "Les enfants jouent dans le jardin pendant que leurs parents préparent le repas."
    assert step(Draft(id="x", text=french)) == Drop(reason="another language", detail="fr")
    names = "A John Adair Giulio Angioni Talal Asad Timothy Asch B Florence Babb Nigel Barley"
    dropped = step(Draft(id="x", text=names))
    assert isinstance(dropped, Drop)
    assert isinstance(language_step([])(Draft(id="x", text=french)), Draft)


def test_a_long_text_is_looked_at_in_three_places(kit):
    text = kit.prose(1, 100)
    assert language_of(text)[0] == "en"
    assert language_of("x = 1; " * 50 + text)[0] == "en"


# quality


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("seed", range(8))
def test_prose_passes_every_rule(kit, language, seed):
    text = kit.prose(seed) if language == "en" else kit.chinese(seed)
    assert quality(web(text, language)) == web(text, language)


def bad(kit) -> dict[str, tuple[str, str]]:
    prose = kit.prose(1)
    words = prose.split()
    return {
        "too short": ("Hello there.", "en"),
        "few letters": ("12 34 56 78 90 12 34 56 78 ab", "en"),
        "fewer than 50 words": (" ".join(words[:40]), "en"),
        "length of words": (" ".join(w * 4 for w in words), "en"),
        "words without letters": (" ".join(f"{w} 12" for w in words), "en"),
        "many signs": (prose.replace(" the ", " #the "), "en"),
        "mostly bullet points": ("\n".join(f"- {s}." for s in prose.split(". ")), "en"),
        "many lines end in an ellipsis": ("\n".join(f"{s}..." for s in prose.split(". ")), "en"),
        "no function words": (" ".join(f"{w}s run fast." for w in set(words)) * 2, "en"),
        "lorem ipsum": (prose + " Lorem ipsum dolor.", "en"),
        "curly bracket": (prose + " { code }", "en"),
        "few lines end a sentence": (prose.replace(". ", "\n").rstrip("."), "en"),
        "fewer than 3 sentences": (prose.replace(". ", ", ").replace(".", "") + ".", "en"),
        "repeated lines": (
            "\n".join([*prose.split(". "), *[s + "." for s in prose.split(". ")[:1]] * 6]),
            "en",
        ),
        "repeated n-grams": (prose + " " + prose, "en"),
    }


@pytest.mark.parametrize(
    "reason",
    [
        "too short",
        "few letters",
        "fewer than 50 words",
        "length of words",
        "words without letters",
        "many signs",
        "mostly bullet points",
        "many lines end in an ellipsis",
        "no function words",
        "lorem ipsum",
        "curly bracket",
        "few lines end a sentence",
        "fewer than 3 sentences",
        "repeated lines",
        "repeated n-grams",
    ],
)
def test_each_rule_drops_what_breaks_it(kit, reason):
    text, language = bad(kit)[reason]
    found = quality(web(text, language))
    assert isinstance(found, Drop), found
    assert found.reason == reason


def test_chinese_pages_are_judged_by_chinese_rules(kit):
    text = kit.chinese(3, 20)
    assert isinstance(quality(web(text, "zh")), Draft)
    assert quality(web(text[:40], "zh")).reason == "fewer than 50 words"
    assert quality(web(text.replace("。", "，"), "zh")).reason in (
        "few lines end a sentence",
        "fewer than 3 sentences",
    )
    assert quality(web(text + text, "zh")).reason == "repeated n-grams"
    menu = "\n".join(["首页", "新闻", "关于我们的网站", "登录", "注册"] * 12)
    assert isinstance(quality(web(menu, "zh")), Drop)
    traditional = kit.chinese(4, 9).translate(
        str.maketrans("们书画图后遇见马车写了这样", "們書畫圖後遇見馬車寫了這樣")
    )
    assert isinstance(quality(web(traditional, "zh")), Draft)


def test_light_rules_keep_poems_and_drop_what_is_no_language():
    poem = "秦川雄帝宅，函谷壯皇居。\n綺殿千尋起，離宮百雉餘。"
    light = Draft(id="x", text=poem, language="zh")
    assert quality(light) == light
    assert isinstance(quality(Draft(id="x", text="= = = 1 2 3 4 5 6 7 8 9 10 11")), Drop)
    none = Draft(id="x", text="1 2 3", rules="none")
    assert quality(none) == none


def test_lines_about_scripts_and_cookies_are_left_out(kit):
    text = f"{kit.prose(1)}\nPlease enable JavaScript.\nThis site uses cookies.\nEnd of it[12]."
    found, left_out = content_lines(text, SETTINGS["en"])
    assert (found, left_out) == (f"{kit.prose(1)}\nEnd of it.", 2)
    draft = quality(web(text))
    assert isinstance(draft, Draft) and draft.counts == {"lines": 2}


def test_repetition_counts_as_gopher_does():
    words = [f"w{n}" for n in range(100)]
    text = " ".join(words)
    assert repeated(text, words, True) is None
    twice = ["the same two", *(f"line {n}" for n in range(9))]
    assert repeated("\n".join(twice), "\n".join(twice).split(), True) is None
    pair = [*words[:60], *["again", "andagain"] * 10]
    assert repeated(" ".join(pair), pair, True).reason == "one 2-gram repeated"
    run = [*words, *words[:12]]
    found = repeated(" ".join(run), run, True)
    assert found is None or found.reason == "repeated n-grams"
    assert repeated(" ".join(words[:10] * 3), words[:10] * 3, True).reason.startswith(
        ("one", "repeated")
    )


# private


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Mail jane.doe+x@mail.example.co.uk now", "Mail [email] now"),
        ("Call +44 20 7946 0958 or (212) 555-0100.", "Call [phone] or [phone]."),
        ("212-555-0100, 212.555.0100", "[phone], [phone]"),
        ("手机13800138000，或+86 138-0013-8000。", "手机[phone]，或[phone]。"),
        ("身份证11010519491231002X号", "身份证[identity]号"),
        ("host 93.184.216.34:80 answered", "host [address]:80 answered"),
        (
            "version 1.2.3.4 at 192.168.1.1 and 127.0.0.1",
            "version 1.2.3.4 at 192.168.1.1 and 127.0.0.1",
        ),
        (
            "ISBN 978-0-321-35668-0, 110105194912310021",
            "ISBN 978-0-321-35668-0, 110105194912310021",
        ),
        ("in 1914-1918 and 2024-01-01", "in 1914-1918 and 2024-01-01"),
        ("order 13800138000999 and 113800138000", "order 13800138000999 and 113800138000"),
        ("pi is 3.14159, at 12:30 @home", "pi is 3.14159, at 12:30 @home"),
    ],
)
def test_personal_data_are_masked_and_numbers_are_not(text, clean):
    assert masked(text)[0] == clean


def test_masking_counts():
    found = mask(Draft(id="x", text="a@b.org c@d.org 13800138000"))
    assert (found.text, dict(found.counts)) == ("[email] [email] [phone]", {"email": 2, "phone": 1})
    plain = Draft(id="x", text="nothing here 12")
    assert mask(plain) is plain


@given(st.text(alphabet=string.ascii_letters + string.digits + "@.+-() ，。"))
def test_masking_twice_is_masking_once(text):
    once = masked(text)[0]
    assert masked(once) == (once, {})


def test_the_check_digit_decides():
    assert is_identity("11010519491231002X")
    assert sum(is_identity(f"11010519491231002{c}") for c in "0123456789X") == 1


# overlap


def index(tmp_path, lines, name="eval.txt"):
    path = tmp_path / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return kept_out([path])


QUESTION = (
    "which of these rivers flows through the capital of the smallest country on the map today"
)


def test_passages_of_evaluation_texts_are_cut(tmp_path, kit):
    step = overlap_step(index(tmp_path, [QUESTION]))
    clean = Draft(id="x", text=kit.prose(1, 20))
    assert step(clean) == clean
    before, after = kit.prose(2, 20), kit.prose(3, 20)
    found = step(Draft(id="x", text=f"{before} {QUESTION.upper()}! {after}"))
    assert isinstance(found, Draft)
    assert found.counts == {"passages of evaluation texts": 1}
    assert "smallest country" not in found.text.lower()
    assert found.text.startswith(before[:500]) and found.text.endswith(after[-500:])
    assert len(found.text) < len(before) + len(after)
    assert step(found) == found
    short = step(Draft(id="x", text=f"Quiz. {QUESTION}. The end."))
    assert short == Drop(reason="overlaps an evaluation text", detail="1 passages")


def test_twelve_words_in_common_are_no_overlap(tmp_path, kit):
    step = overlap_step(index(tmp_path, [QUESTION]))
    twelve = Draft(id="x", text=" ".join(QUESTION.split()[:12]) + ". " + kit.prose(4))
    thirteen = Draft(id="x", text=" ".join(QUESTION.split()[:13]) + ". " + kit.prose(4, 30))
    assert step(twelve) == twelve
    assert step(thirteen) != thirteen


def test_chinese_counts_characters(tmp_path, kit):
    question = "下面哪一条河流经过地图上最小的国家的首都请选择正确的答案"
    step = overlap_step(index(tmp_path, [question]))
    twenty = Draft(id="x", text=kit.chinese(1, 40) + question[:20] + kit.chinese(2, 40))
    nineteen = Draft(id="x", text=kit.chinese(1, 40) + question[:19] + kit.chinese(2, 40))
    assert isinstance(step(twenty), Draft) and question[:20] not in step(twenty).text
    assert step(nineteen) == nineteen


def test_short_and_structured_evaluation_texts(tmp_path):
    path = tmp_path / "eval.jsonl"
    path.write_text(
        '{"q": "one two three four five six seven eight", "o": ["床前明月光疑是地上霜"]}\n'
    )
    assert {size: len(hashes) for size, hashes in kept_out([path]).items()} == {"8": 1, "10": 1}
    assert kept_out([]) == {}
    with pytest.raises(DataError) as caught:
        kept_out([tmp_path / "none.txt"])
    assert caught.value.code == "E-DATA-191"


def test_many_overlaps_drop_the_document(tmp_path, kit):
    step = overlap_step(index(tmp_path, [QUESTION]))
    text = f" {QUESTION}. ".join(kit.prose(n, 20) for n in range(14))
    found = step(Draft(id="x", text=text))
    assert found == Drop(reason="overlaps an evaluation text", detail="13 passages")


@given(st.lists(st.sampled_from("abcdefg"), max_size=30), st.integers(2, 6))
def test_ngrams_are_equal_where_the_words_are(parts, n):
    hashes = ngrams(parts, n)
    grams = [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]
    assert len(hashes) == max(0, len(grams))
    assert len(set(hashes.tolist())) == len(set(grams))


def test_units():
    text = "The CAT_sat 北京, 2024"
    assert [(u, text[a:b]) for u, a, b in units(text)] == [
        ("the", "The"),
        ("cat", "CAT"),
        ("sat", "sat"),
        ("北", "北"),
        ("京", "京"),
        ("2024", "2024"),
    ]


# all


def test_through_names_the_step_that_dropped():
    steps = [
        ("one", lambda d: counted(d, d.text + "!", {"signs": 1})),
        ("two", lambda d: Drop(reason="no")),
    ]
    assert through(Draft(id="x", text="a"), steps) == (Drop(reason="no"), "two")
    kept, step = through(Draft(id="x", text="a"), steps[:1])
    assert (kept.text, dict(kept.counts), step) == ("a!", {"signs": 1}, "")
