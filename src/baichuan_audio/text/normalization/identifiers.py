"""Identifiers: telephone numbers, plates, rooms, flights, serial numbers, passwords."""

from __future__ import annotations

import re

from .languages import ENGLISH, MANDARIN, Language
from .number_words import english_plural
from .rules import Rule, after, before, digits, is_counted, nothing, rule, space

_NAMED = re.compile(
    r"(?:(?<![A-Za-z])(?:account|agent|Airbus|apartment|apt|badge|Boeing|booking|box|bus|call|channel|codes?|confirmation"
    r"|dial|ending in|ends in|error|ext|extension|fax|flight|gate|highway|hotline|HTTP|ID|interstate|invoice|ISBN|ISO"
    r"|locker|mobile|model|number|passcode|password|phone|PIN|plate|postal|postcode|ref|reference|RFC|room|route|serial|SKU|S/N"
    r"|SN|suite|tel|telephone|text|ticket|tracking|train|zip|zipcode)\.?"
    r"(?: (?:number|no\.?|code|is|id|for|(?:us|me|him|her|them|it) at))?"
    r"|(?<![A-Za-z])(?:No|Nr)\.|#)[ :#=]{0,3}(?:[A-Z]{1,4}[ -])?$",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"(?:(?<![A-Za-z])(?:code|password|passcode|PIN|serial|key|plate|S/N|SN)(?: (?:number|is|no\.?))?"
    r"|[证验取提激兑邀优]\S码|密码|口令|序列号|编号|单号|车牌号?)[是为：: #]{0,4}$",
    re.IGNORECASE,
)
_NAMED_MANDARIN = re.compile(
    r"(?:电话|手机|号码|热线|座机|传真|分机|拨打|致电|呼叫|短信至|[拨打报转]|客服|火警|急救|匪警|邮编|邮政编码|区号"
    r"|验证码|校验码|取件码|提取码|激活码|兑换码|邀请码|优惠码|会议号|密码|口令|编号|单号|工号|学号|卡号|账号|帐号|尾号|会员号|批号|机号|群号|序列号|代码|代号"
    r"|车牌|门牌|房号|证号|身份证|护照|QQ|微信|ID|PIN|ISBN|房间|包厢|包间|教室|栋|幢|单元|座|航班|车次|型号|波音|空客)"
    r"号?码?[是为：: #]{0,4}(?:[A-Za-z]{1,4})?$"
)
_NAMED_BEHIND = re.compile(
    r"(?:室|房(?!价|贷)|房间|教室|包厢|宿舍|号房|号楼|路(?:公交|车|巴士|$|[，。！？、到开])|次(?:列车|航班|高铁|动车|车)|航班|国道|省道|高地"
    r"|中学|医院|厂|艺术区|热线|报警|急救|火警|事件|查询|客服)"
)
_COUNTER = re.compile(
    r" ?(?:[个分元块次人名位只条张本天年月件种份万亿千百度倍岁米斤克层台辆部页字吨]|公里|公斤|小时)(?!牌|员)"
)
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_COUNTRY = r"\+[0-9]{1,3}(?:[ -]\([0-9]{1,4}\)|[ -][0-9]{1,4})(?:[ -][0-9]{2,8}){1,4}(?![0-9])"
_KNOWN_NUMBERS = (
    r"(?<![0-9.,])(?:(?:985|211)(?=[高大院工、和])|996(?=[工制加])|618(?=[大购活节年])|315(?=[晚打])|404(?=[页错])|502(?=胶)"
    r"|(?:12306|12315|12345|10086|10010|955[0-9]{2})(?=[\u4e00-\u9fff])(?![个人元块名次万亿千百多分]))"
)
_EVENTS = "大?地震|事件|晚会|运动|惨案|事变|妇女节|恐袭|购物节"
_WEAPONS = ("歼", "轰", "运", "直", "东风", "红旗", "长征", "巨浪", "鹰击", "霹雳", "神舟", "嫦娥", "天宫")
"""Names of machines that stand before a hyphen and a number, which is no minus then."""
_BOOKS = (
    "Genesis|Exodus|Psalms?|Proverbs|Isaiah|Matthew|Mark|Luke|John|Acts|Romans|Corinthians|Hebrews|James|Revelation"
)
_STREETS = "Ave|Avenue|St|Street|Rd|Road|Blvd|Boulevard|Dr|Drive|Ln|Lane|Way|Court|Square"
_STATES = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|DC|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|OR|PA"
    "|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY"
)
_ABBREVIATIONS = {
    "p": "page", "pg": "page", "pp": "pages", "ext": "extension", "fig": "figure", "figs": "figures", "vol": "volume",
    "ch": "chapter", "sec": "section", "eq": "equation", "apt": "apartment",
}  # fmt: skip
_FEW = re.compile("[0-9]{1,2}(?![0-9A-Za-z])")


def _named(match: re.Match[str], language: Language) -> str:
    """An integer of three digits or more: digit by digit where the words around it mark an identifier."""
    number = match.group()
    if len(number) > 12:
        return language.digits(number)
    if language is MANDARIN:
        if _COUNTER.match(after(match, 3)):
            return number
        if _NAMED_MANDARIN.search(before(match)) or _NAMED_BEHIND.match(after(match, 5)):
            return language.digits(number)
    is_name = _NAMED.search(before(match, 32)) and not is_counted(match)
    return language.digits(number) if is_name else number


def _named_groups(match: re.Match[str], language: Language) -> str:
    """5-2-3017, where the words before mark an identifier."""
    named = _NAMED_MANDARIN.search(before(match)) or _NAMED.search(before(match, 32))
    return digits(match, language) if named else match.group()


def _mixed_code(match: re.Match[str], language: Language) -> str:
    """3F9K-22A1 after the word for a code: digit by digit."""
    code = match.group()
    if not (re.search("[0-9]", code) and re.search("[A-Za-z]", code) and _CODE.search(before(match))):
        return code
    joint = "" if language is MANDARIN else " "
    parts = re.findall("[0-9]|[A-Za-z]+", code)
    return joint.join(language.digits(part) if part.isdigit() else part for part in parts)


def _part_number(match: re.Match[str], language: Language) -> str:
    """X7-4410."""
    return f"{match.group(1)} {language.digits(match.group(2))} {language.digits(match.group(3))}"


def _emergency(match: re.Match[str], language: Language) -> str:
    counted = is_counted(match) or (language is MANDARIN and _COUNTER.match(after(match, 3)))
    return match.group() if counted else language.digits(match.group())


def _beside_letters(match: re.Match[str], language: Language) -> str:
    """E100, 705A, user123: three digits or more adjacent to letters are an identifier."""
    return language.digits(match.group())


def _plate(match: re.Match[str], language: Language) -> str:
    return match.group(1) + re.sub("[0-9]", lambda digit: MANDARIN.digits(digit.group()), match.group(2))


def _identity(match: re.Match[str], language: Language) -> str:
    return language.digits(match.group(1)) + (" X" if language.name == "en" else "X") * bool(match.group(2))


def _version(match: re.Match[str], language: Language) -> str:
    numbers, _, port = match.group().partition(":")
    parts = numbers.split(".")
    address = language is MANDARIN and len(parts) == 4  # an IP address
    words = language.words["point"].join((language.digits if address else language.number)(part) for part in parts)
    return words + (language.words["port"] + language.number(port) if port else "")


def _day_of_memory(match: re.Match[str], language: Language) -> str:
    """9·18, a day known by its date."""
    return language.digits(match.group().replace("·", "")) if language is MANDARIN else match.group()


def _digits_in_mandarin(match: re.Match[str], language: Language) -> str:
    return language.digits(match.group()) if language is MANDARIN else match.group()


def _with_letters(match: re.Match[str], language: Language) -> str:
    """1-800-FLOWERS."""
    return digits(match, language) + language.words["pause"]


def _plural(match: re.Match[str], language: Language) -> str:
    """MP3s: threes, not seconds."""
    return english_plural(ENGLISH.number(match.group(1)))


def _dated_event(match: re.Match[str], language: Language) -> str:
    """9.11事件."""
    return MANDARIN.digits(match.group(1) + match.group(2))


def _verse(match: re.Match[str], language: Language) -> str:
    """John 3:16."""
    return match.group(1) + language.number(match.group(2)) + " " + language.number(match.group(3))


def _house(match: re.Match[str], language: Language) -> str:
    """1600 Pennsylvania Avenue."""
    return language.year(match.group()) if language is ENGLISH else match.group()


def _storage(match: re.Match[str], language: Language) -> str:
    """256G."""
    return language.number(match.group(1))


def _v(match: re.Match[str], language: Language) -> str:
    return match.group(1) + " "


def _postcode(match: re.Match[str], language: Language) -> str:
    return match.group(1) + digits(match, language)


def _number_sign(match: re.Match[str], language: Language) -> str:
    """#7, No. 7; No.1 is the first where the sentence is Mandarin."""
    if language is MANDARIN and "o" in match.group().lower() and _FEW.match(after(match, 3)):
        return "第" * (before(match, 1) != "第")
    return language.words["#"]


def _abbreviation(match: re.Match[str], language: Language) -> str:
    """pp. 12, ext. 42."""
    return f"{_ABBREVIATIONS[match.group(1).lower()]} " if language is ENGLISH else match.group()


def _underscore(match: re.Match[str], language: Language) -> str:
    return "下划线" if language is MANDARIN else " "


RULES: tuple[Rule, ...] = (
    rule(rf"(?<![A-Za-z0-9.])((?i:{'|'.join(_ABBREVIATIONS)}))\. ?(?=[0-9])", _abbreviation),
    rule(r"(?<![A-Za-z0-9])#(?=[0-9])|(?<![A-Za-z0-9])(?:No|NO)\. ?(?=[0-9])", _number_sign),
    rule(rf"\b((?:{_STATES}) )[0-9]{{5}}(?:-[0-9]{{4}})?(?![0-9A-Za-z-]|[.,][0-9])", _postcode),
    rule(rf"([{_PROVINCES}][A-Z])[·• ]?([A-Z0-9]{{4,6}})(?![A-Za-z0-9])", _plate),
    rule(r"(?<![0-9])([0-9]{17})([Xx])(?![A-Za-z0-9])", _identity),
    rule(_COUNTRY, digits),
    rule(r"(?<![0-9A-Za-z])\+[0-9]{10,15}(?![0-9.,])", digits),
    rule(r"(?<![0-9-])1-8[0-9]{2}-(?=[A-Z]{4})", _with_letters),
    rule(r"(?<=(?<![A-Za-z])N)95(?![0-9])", _digits_in_mandarin),
    rule(r"(?<![0-9-])[0-9]{4}(?: [0-9]{4}){2,4}(?![0-9-])", digits),
    rule(r"(?<![0-9])[0-9]{1,2}·[0-9]{1,2}(?![0-9])", _day_of_memory),
    rule(r"(?<=《)(?:19|20)[0-9]{2}(?![0-9.,])", _digits_in_mandarin),
    rule(_KNOWN_NUMBERS, digits),
    rule(rf"\b((?:{_BOOKS}) )([0-9]{{1,3}}):([0-9]{{1,3}})(?![0-9:])", _verse),
    rule(rf"(?<![0-9A-Za-z.,-])[1-9][0-9]{{3}}(?= (?:[A-Z][a-z]{{2,15}} ){{1,3}}(?:{_STREETS})\b)", _house),
    rule(r"(?<![0-9A-Za-z.,-])(64|128|256|512|1024)(?=G(?![A-Za-z0-9]))", _storage),
    rule(rf"(?<![0-9.])([0-9]{{1,2}})\.([0-9]{{1,2}})(?={_EVENTS})", _dated_event),
    rule(rf"(?:{'|'.join(f'(?<={name})' for name in _WEAPONS)})-(?=[0-9])", nothing),
    rule(r"(?<=[A-Za-z])-?([1-9][0-9]?)s(?![A-Za-z0-9])", _plural),
    rule(r"(?<=[A-Z][0-9])'(?=[0-9]{2}(?![0-9]))|(?<=[0-9])-(?=in-[0-9])|(?<=[0-9]-in)-(?=[0-9])", space),
    rule(r"(?<=第)[0-9]{5,12}(?=[期号])", digits),
    rule(r"(?<![0-9-])(?:1-)?(?:\([0-9]{3}\) ?|[0-9]{3}[-. ])[0-9]{3,4}[-. ][0-9]{4}(?![0-9-])", digits),
    rule(r"(?<![0-9-])(?:0[0-9]{2,3}-[0-9]{7,8}|[2-9][0-9]{2}-[0-9]{4})(?![0-9-])", digits),
    rule(r"(?<![0-9-])0[0-9]{1,4}(?: [0-9]{2,4}){2,4}(?![0-9-])", digits),
    rule(r"(?<![0-9-])1[3-9][0-9]([ -])[0-9]{4}\1[0-9]{4}(?![0-9-])", digits),
    rule(r"(?<![0-9-])[0-9]{1,7}(?:-[0-9]{1,7}){3,8}(?![0-9-])", digits),
    rule(r"(?<![0-9-])[0-9]{3,4}-[0-9]{2,4}-[0-9]{4}(?![0-9-])", digits),
    rule(r"(?<![0-9-])[0-9]-[0-9]-[0-9](?![0-9-])", digits),
    rule(r"(?<![0-9.,])1[3-9][0-9]{9}(?![0-9.,])", digits),
    rule(r"(?<![0-9.,A-Za-z-])[0-9]{1,12}(?:-[0-9]{1,12}){1,3}(?![0-9A-Za-z-])", _named_groups),
    rule(r"(?<![0-9.,A-Za-z-])[0-9]{3,4}(?: [0-9]{3,4}){1,4}(?![0-9A-Za-z-]| [0-9])", _named_groups),
    rule(
        r"(?<![0-9A-Za-z-])(?=[A-Za-z-]{0,20}[0-9])[0-9A-Za-z]{2,20}(?:-[0-9A-Za-z]{1,20}){0,5}(?![0-9A-Za-z-])",
        _mixed_code,
    ),
    rule(r"(?<![0-9A-Za-z])([A-Za-z]{1,4})([0-9]{1,4})-([0-9]{2,8})(?![0-9-])", _part_number),
    rule(r"(?<![0-9.,$€£¥A-Za-z])911(?![0-9A-Za-z]|[.,][0-9])", _emergency),
    rule(r"(?<![0-9.,A-Za-z-])[0-9]{3,40}(?![0-9A-Za-z%]|[.,][0-9]|-[0-9])", _named),
    rule(r"\b([Vv])(?=[0-9]{1,9}\.[0-9])", _v),
    rule(r"(?<![0-9.])[0-9]{1,15}(?:\.[0-9]{1,15}){2,20}(?::[0-9]{2,5})?(?![0-9])", _version),
)

BESIDE_LETTERS: tuple[Rule, ...] = (
    rule(r"(?<=[A-Za-z_])[0-9]{3,40}(?![0-9]|[.,][0-9])", _beside_letters),
    rule(r"(?<=[A-Za-z]-)[0-9]{3,40}(?![0-9]|[.,][0-9])", _beside_letters),
    rule(r"(?<=[A-Za-z0-9])_(?=[A-Za-z0-9\u4e00-\u9fff])", _underscore),
    rule(r"(?<![0-9.,])[0-9]{3,40}(?=[A-HJ-JLN-SUYZ](?![A-Za-z0-9])|[A-Z]{2,4}[0-9])", _beside_letters),
)
"""Applied after units and ordinals, which are also adjacent to letters."""
