"""Books and other text: frames off, wrapped lines joined, verse left alone."""

import zipfile

import pytest

from sapwood.corpora import books
from sapwood.corpora.books import BLOCKS, GUTENBERG, LINES, TEXT, unframed, unwrapped
from sapwood.corpora.draft import Drop, Meter
from sapwood.corpora.epub import EPUB

HEADER = "The Project Gutenberg EBook of Emma\n\nTitle: Emma\n\nAuthor: Jane Austen\n\n"
FRAMED = (
    HEADER
    + "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\nProduced by An Anonymous Volunteer\n\n"
    "CHAPTER I\n\nEmma Woodhouse.\n\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\nlicence words\n"
)


def drafts(form, path):
    return [draft for raw in form.records(path, Meter()) for draft in form.extract(raw)]


@pytest.mark.parametrize(
    "text",
    [
        FRAMED,
        FRAMED.replace("THE PROJECT", "THIS PROJECT"),
        FRAMED.replace("*** END OF THE PROJECT", "End of the Project"),
        FRAMED.replace("\n", "\r\n"),
    ],
)
def test_the_frame_of_gutenberg_is_removed(tmp_path, text):
    path = tmp_path / "emma.txt"
    path.write_bytes(text.encode())
    (draft,) = drafts(GUTENBERG, path)
    assert (draft.text, draft.title) == ("CHAPTER I\n\nEmma Woodhouse.", "Emma")


def test_the_small_print_of_old_files_is_removed():
    old = "Head\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04*END*\n\nCall me Ishmael.\n"
    assert unframed(old + "x" * 100) == "Call me Ishmael.\n" + "x" * 100


def test_a_text_that_speaks_of_the_end_early_keeps_its_words():
    text = "End of Project Gutenberg was a phrase.\n" + "words\n" * 50
    assert unframed(text) == text.strip()


WRAPPED = (
    "Emma Woodhouse, handsome, clever, and rich, with a comfortable home\n"
    "and happy disposition, seemed to unite some of the best blessings of\n"
    "existence; and had lived nearly twenty-one years in the world.\n"
)
VERSE = "Full many a flower is born to blush unseen,\n  And waste its fragrance on the desert air."


def test_wrapped_prose_is_joined_and_verse_is_not():
    text = unwrapped(f"{WRAPPED}\n{VERSE}\n\n{WRAPPED}")
    assert text == (f"{' '.join(WRAPPED.split())}\n\n{VERSE}\n\n{' '.join(WRAPPED.split())}")
    assert unwrapped(text) == text


def test_long_lines_and_short_ones_are_left_as_they_are():
    long = "word " * 60
    assert unwrapped(f"{long}\n{long}") == f"{long}\n{long}"
    assert unwrapped("a\nb\nc") == "a\nb\nc"
    assert unwrapped("\n\n \n") == ""


def test_a_large_text_file_is_cut_where_paragraphs_end(tmp_path, monkeypatch):
    monkeypatch.setattr(books, "FILES_AT_ONCE", 1000)
    monkeypatch.setattr(books, "BLOCK", 300)
    path = tmp_path / "large.txt"
    paragraphs = [f"Paragraph {n} " + "of some length " * 10 for n in range(40)]
    path.write_text("\n\n".join(paragraphs))
    found = list(TEXT.records(path, Meter()))
    assert len(found) > 4 and [one.id for one in found[:2]] == ["#1", "#2"]
    assert b"".join(one.data for one in found).decode() == "\n\n".join(paragraphs)
    assert all(one.data.endswith(b"\n\n") for one in found[:-1])


def test_a_large_file_of_one_line_is_cut_between_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(books, "FILES_AT_ONCE", 1000)
    monkeypatch.setattr(books, "LARGEST_RECORD", 1500)
    path = tmp_path / "line.txt"
    path.write_text("汉" * 3000, encoding="utf-8")
    assert "".join(draft.text for draft in drafts(TEXT, path)) == "汉" * 3000


def test_blocks_and_lines_are_documents(tmp_path):
    path = tmp_path / "bert.txt"
    path.write_text("One.\nTwo.\n\n\nThree.\n \nFour.\nFive.")
    assert [d.text for d in drafts(BLOCKS, path)] == ["One.\nTwo.", "Three.", "Four.\nFive."]
    assert [d.text for d in drafts(LINES, path)] == ["One.", "Two.", "Three.", "Four.", "Five."]
    assert [d.text for d in drafts(TEXT, path)] == ["One.\nTwo.\n\nThree.\n\nFour.\nFive."]


def test_an_epub_is_one_document_in_reading_order(tmp_path, kit):
    path = tmp_path / "tale.epub"
    kit.epub(path, ["The first chapter.", "The second &amp; last."])
    (draft,) = drafts(EPUB, path)
    assert draft.text == "The first chapter.\n\nThe second & last."
    assert draft.title == "A Tale"
    assert "Contents" not in draft.text


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_epub_that_lies_about_its_size_is_stopped(tmp_path, kit, monkeypatch):
    monkeypatch.setattr("sapwood.corpora.epub.LARGEST_BOOK", 100_000)
    path = tmp_path / "bomb.epub"
    kit.epub(path, ["x"])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as book:
        book.writestr("OEBPS/text/c0.xhtml", b"<p>" + b"0" * 50_000_000)
    (found,) = EPUB.records(path, Meter())
    assert isinstance(found, Drop) and found.reason == "larger than 64 MiB unpacked"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("META-INF/container.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "damaged EPUB"),
        ("META-INF/container.xml", b"<a><rootfile full-path='none.opf'/></a>", "damaged EPUB"),
        ("META-INF/container.xml", b"<a><b></a>", "damaged EPUB"),
        (
            "META-INF/encryption.xml",
            b"<e><CipherReference URI='OEBPS/text/c0.xhtml'/></e>",
            "encrypted book",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_broken_and_locked_books_are_dropped_with_a_reason(tmp_path, kit, name, content, reason):
    path = tmp_path / "bad.epub"
    kit.epub(path, ["x"], {name: content})
    (found,) = EPUB.records(path, Meter())
    assert isinstance(found, Drop) and found.reason == reason


def test_obfuscated_fonts_lock_nothing(tmp_path, kit):
    path = tmp_path / "fonts.epub"
    content = b"<e><CipherReference URI='OEBPS/fonts/a.otf'/></e>"
    kit.epub(path, ["Words."], {"META-INF/encryption.xml": content})
    assert [draft.text for draft in drafts(EPUB, path)] == ["Words."]
