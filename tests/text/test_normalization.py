"""Texts for the eye and what is said: tables in both languages, any input, plain text untouched, linear time."""

from __future__ import annotations

import random
import time

import pytest

from baichuan_audio import spoken_text
from baichuan_audio.text.normalization import normalize_for_speech

from .normalization_tables import Line, canonical, read_table

TABLE = [
    line
    for name in ("normalization.tsv", "normalization_second.tsv", "normalization_third.tsv")
    for line in read_table(name)
]

ENGLISH = [
    ("I have 3 apples and 21 pears.", "I have three apples and twenty one pears."),
    ("0.5, 3.14, .5 and -2", "zero point five, three point one four, zero point five and minus two"),
    ("1,234,567 or 1200000", "one million two hundred thirty four thousand five hundred sixty seven or "
                             "one million two hundred thousand"),
    ("agent 007", "agent zero zero seven"),
    ("12345678901234567", "one two three four five six seven eight nine zero one two three four five six seven"),
    ("It costs $12.50.", "It costs twelve dollars and fifty cents."),
    ("$0.99, $1, £2.01, 20€, ¥5", "ninety nine cents, one dollar, two pounds and one pence, twenty euros, five yuan"),
    ("$3.5 million, $5K, -$5", "three point five million dollars, five thousand dollars, minus five dollars"),
    ("up 12.5%, 10-20%, 10%-20%, 5‰", "up twelve point five percent, ten to twenty percent, ten to twenty percent, "
                                      "five per mille"),
    ("the 1st, 2nd, 23rd and 100th", "the first, second, twenty third and one hundredth"),
    ("1/2 cup, 3/4, 2 1/2 hours, ½", "one half cup, three quarters, two and a half hours, one half"),
    ("open 24/7 in 16/9", "open twenty four seven in sixteen over nine"),
    ("In 1984, in 1815, 2005 and 1900", "In nineteen eighty four, in eighteen fifteen, two thousand five and "
                                        "nineteen hundred"),
    ("the 1990s, the 90s and 2010s", "the nineteen nineties, the nineties and twenty tens"),
    ("1815 people", "one thousand eight hundred fifteen people"),
    ("On 2024-03-15 we met.", "On March fifteenth, twenty twenty four we met."),
    ("3/15/2024, 15/3/2024", "March fifteenth, twenty twenty four, March fifteenth, twenty twenty four"),
    ("March 15, 2024; Mar 3rd; May 2020", "March fifteenth, twenty twenty four; March third; May twenty twenty"),
    ("the 3rd of May, 15 March 2024", "the third of May, the fifteenth of March, twenty twenty four"),
    ("2024-03-15T14:30", "March fifteenth, twenty twenty four fourteen thirty"),
    ("at 14:30, 3:00, 3:05 pm, 9am, 2:05 p.m.", "at fourteen thirty, three o'clock, three oh five PM, nine AM, "
                                                "two oh five PM"),
    ("10:30-11:45", "ten thirty to eleven forty five"),
    ("won 3:2", "won three to two"),
    ("Call (415) 555-2671.", "Call four one five, five five five, two six seven one."),
    ("+1 415-555-2671", "plus one, four one five, five five five, two six seven one"),
    ("code 4821, room 305", "code four eight two one, room three zero five"),
    ("pages 3-5, 2019-2021, 10–20", "pages three to five, twenty nineteen to twenty twenty one, ten to twenty"),
    ("5 - 3 = 2, 12 + 7 = 19", "five minus three equals two, twelve plus seven equals nineteen"),
    ("3*4=12, 6 ÷ 2 = 3, 2^10", "three times four equals twelve, six divided by two equals three, "
                                "two to the power of ten"),
    ("5km in 25 min at 12 km/h", "five kilometers in twenty five minutes at twelve kilometers per hour"),
    ("1 kg, 3-5 kg, 100 m², 60 mph", "one kilogram, three to five kilograms, one hundred square meters, "
                                     "sixty miles per hour"),
    ("-5°C, 77 °F, 90°", "minus five degrees Celsius, seventy seven degrees Fahrenheit, ninety degrees"),
    ("Version 3.11.2 on 10.0.0.1", "Version three point eleven point two on ten point zero point zero point one"),
    ("GPT-4, A4, mp3", "GPT four, A four, mp three"),
    ("#1 choice, No. 5, ~20", "number one choice, number five, about twenty"),
    ("See https://www.example.com/path?x=1.", "See example dot com."),
    ("mail ann.lee_2@example.co.uk!", "mail ann dot lee underscore two at example dot co dot uk!"),
    ("docs.python.org is it", "docs dot python dot org is it"),
    ("R&D at x < 3", "R and D at x less than three"),
    ("Hello 👋🏽 world! 😀", "Hello world!"),
    ("１２３ cats", "one hundred twenty three cats"),
]  # fmt: skip
MANDARIN = [
    ("我有3个苹果和2本书，共120元。", "我有三个苹果和两本书，共一百二十元。"),
    ("第2名，2月2日2点", "第二名，二月二日两点"),
    ("圆周率是3.14159", "圆周率是三点一四一五九"),
    ("零下-5，共1,005人", "零下负五，共一千零五人"),
    ("温度是-5°C到25℃，湿度60%。", "温度是负五摄氏度到二十五摄氏度，湿度百分之六十。"),
    ("增长了10%-20%，5‰", "增长了百分之十到百分之二十，千分之五"),
    ("今天是2024年3月15日", "今天是二零二四年三月十五日"),
    ("2019-2021年，90年代，2000年前", "二零一九到二零二一年，九十年代，二千年前"),
    ("2024-03-15 会议在 9:30 开始", "二零二四年三月十五日会议在九点三十分开始"),
    ("14:05开会，下午3:00走", "十四点零五分开会，下午三点走"),
    ("比分3:2", "比分三比二"),
    ("电话13812345678", "电话一三八一二三四五六七八"),
    ("热线400-800-1234", "热线四零零，八零零，一二三四"),
    ("验证码4821", "验证码四八二一"),
    ("价格¥12.50，$3.5万，100元", "价格十二点五元，三点五万美元，一百元"),
    ("1/3的人，2又1/2", "三分之一的人，二又二分之一"),
    ("5 + 3 等于多少？12×3=36，10 - 4 = 6。", "五加三等于多少？十二乘三等于三十六，十减四等于六。"),
    ("跑了5km，重3-5公斤，2.5米", "跑了五公里，重三到五公斤，二点五米"),
    ("请访问https://baidu.com/x，谢谢", "请访问baidu点com，谢谢"),
    ("发邮件到ann@qq.com。", "发邮件到ann艾特qq点com。"),
    ("iPhone 15 很贵，3万亿，120000005", "iPhone 十五很贵，三万亿，一亿二千万零五"),
    ("苹果🍎和梨", "苹果和梨"),
]
MARKDOWN = [
    ("# Title\n\nSome **bold**, *em*, ~~old~~ and `code`.", "Title. Some bold, em, old and code."),
    ("First line\nsecond line\n\nNext", "First line second line. Next"),
    ("- one\n* two!\n+ [x] done", "one. two! done."),
    ("1. Wash\n2. Cook", "one, Wash. two, Cook."),
    ("| Name | Age |\n|---|:-:|\n| Ann | 31 |", "Name, Age. Ann, thirty one."),
    ("See [the page](https://x.org/a_(b) \"t\") and ![a cat](cat.png) [ref][1].\n\n[1]: https://y.org",
     "See the page and a cat ref."),
    ("Run:\n```python\nx = 1\n```\nDone", "Run: Code left out. Done"),
    ("> quoted __text__ in snake_case", "quoted text in snake case"),
    ("a<br>b &amp; c \\*d\\*", "a b and c d"),
    ("---\ntext\n***", "text"),
    ("# 标题\n\n- 第一项\n- 第二项\n\n正文\n第二行", "标题。第一项。第二项。正文第二行"),
    ("```\n未完", "代码略。"),
    ("Title\n\n- 2 cats\n\n- 2只猫", "Title. two cats. 两只猫。"),
]  # fmt: skip
LATEX = [
    ("The formula is $E = mc^2$ and $$\\frac{1}{2}mv^2$$.",
     "The formula is E equals mc squared and one half mv squared."),
    ("\\(a+b\\) and \\[c=d\\]", "a plus b and c equals d"),
    ("$100 and $x$ and 5$", "one hundred dollars and x and five dollars"),
    ("\\frac{a}{b} \\times 3 \\leq 5 \\alpha", "a over b times three less than or equal to five alpha"),
    ("$n$ items, $x_1$ and $x_{12}$, $e^{i\\pi}$, $90^\\circ$",
     "n items, x one and x twelve, e to the power of i pi, ninety degrees"),
    ("$\\sin(x) + \\log y$, $\\sqrt{16} = 4$", "sin (x) plus log y, the square root of sixteen equals four"),
    ("Pay $20 = good, or $5-$10; the α.", "Pay twenty dollars equals good, or five to ten dollars; the alpha."),
    ("the answer is $\\boxed{42}$, 50\\%", "the answer is forty two, fifty percent"),
    ("圆的面积是 $S = \\pi r^2$。", "圆的面积是 S等于派r的平方。"),
    ("方程的解是 $$x = \\frac{-b \\pm \\sqrt{b^2-4ac}}{2a}$$", "方程的解是 x等于二a分之负b正负根号b的平方减四ac"),
    ("α粒子和β射线", "阿尔法粒子和贝塔射线"),
    ("Ελληνικά", "Ελληνικά"),
]  # fmt: skip
PLAIN = [
    "Plain text stays, as it is: it's \"good\" (really) - isn't it? Yes; e.g. this…",
    "纯文本保持不变：“好的”（真的）——是吗？是的！",
    "Hello，世界 and C# or F#, twenty four.",
    "Ça va très bien, señor.",
    "",
]


@pytest.mark.parametrize(("text", "spoken"), ENGLISH + MANDARIN + MARKDOWN + LATEX)
def test_what_is_said(text: str, spoken: str):
    assert normalize_for_speech(text) == spoken
    assert normalize_for_speech(spoken) == spoken


@pytest.mark.parametrize("line", TABLE, ids=lambda line: f"{line.kind}: {line.text}")
def test_what_is_said_of_every_kind(line: Line):
    spoken = normalize_for_speech(line.text)
    assert canonical(spoken) in line.readings, spoken
    assert canonical(normalize_for_speech(spoken)) in line.readings
    assert not set("0123456789") & set(spoken)


def test_the_table_is_large_and_strict():
    kinds = [line.kind for line in TABLE]
    assert len(TABLE) >= 400 and min(map(kinds.count, set(kinds))) >= 4
    assert all(line.readings and "" not in line.readings for line in TABLE)
    assert canonical("Twenty-one,  and  3 p.m.") == "twenty one 3 pm" and canonical("幺 五 O, oh") == "一五oh oh"


def test_the_old_name_still_works():
    with pytest.warns(DeprecationWarning, match="normalize_for_speech"):
        assert spoken_text.for_speech("12", "zh") == "十二"


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_stays(text: str):
    assert normalize_for_speech(text) == text


def test_language_by_the_letters_around_or_by_name():
    assert normalize_for_speech("我说 3 times 和5次") == "我说三 times 和五次"
    assert normalize_for_speech("12") == "twelve"
    assert normalize_for_speech("12", "zh-CN") == normalize_for_speech("12", "zh") == "十二"
    assert normalize_for_speech("有12", "en") == "有twelve"
    assert normalize_for_speech("12", "fr") == "twelve"


def test_any_input_gives_text_without_figures():
    rng = random.Random(0)
    alphabet = "0123456789 .,-/:%$€*_`[]()<>#|~^&@+=×°C ab人年月日点½²٣２\n\t\0\U0001f600\ud800\u200d\ufe0fTstndpm"
    for _ in range(400):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(60)))
        spoken = normalize_for_speech(text)
        assert not set("0123456789*`_|") & set(spoken), repr(text)
        spoken.encode()  # no half of a surrogate pair is left


@pytest.mark.parametrize(
    "unit",
    [
        *("1", "1.", "1,111", "1/", "[a](", "**a", "<a ", "|-", "-", "$1", "a@", "a.", "1:11", "# a\n", "&#", "= "),
        *(
            "1-",
            "111 ",
            "0101 ",
            "12:30-",
            "a_",
            "A1-",
            "X ",
            "²",
            "x^",
            "±",
            "1'1\"",
            "1.1e",
            "$1-$",
            "1元/人",
            "Jan 1 ",
        ),
        *(
            "2024-01-01-",
            "京A",
            "拨打",
            "call 123 ",
            "1.1.1.1.",
            "USD 1",
            "90后",
            "the 90s",
            "a.html",
            "①",
            "中1",
            "Ａ",
            "$x^2 ",
            "\\frac{a}{b}",
            "\\[a=",
        ),
    ],
)
def test_time_grows_with_the_length_only(unit: str):
    def seconds(count: int) -> float:
        started = time.process_time()
        normalize_for_speech(unit * count)
        return time.process_time() - started

    short = min(seconds(500) for _ in range(2))
    assert seconds(3000) < 6 * 3 * short + 0.1


@pytest.mark.parametrize("unit", ["≥", "1:11 ", "2024-01-01-", "call 123 ", "World War I ", "**[a](", "京A1-"])
def test_hostile_texts_of_100_kilobytes(unit: str):
    started = time.process_time()
    normalize_for_speech(unit * (100_000 // len(unit)))
    assert time.process_time() - started < 20  # a second or two; a pattern that goes back and forth takes hours
