"""Signs of units and currencies, and their names: English for one and for many, Mandarin."""

from __future__ import annotations

from dataclasses import dataclass

# fmt: off
UNITS: dict[str, tuple[str, str, str]] = {
    "km": ("kilometer", "kilometers", "公里"), "m": ("meter", "meters", "米"),
    "cm": ("centimeter", "centimeters", "厘米"), "mm": ("millimeter", "millimeters", "毫米"),
    "nm": ("nanometer", "nanometers", "纳米"), "μm": ("micrometer", "micrometers", "微米"),
    "ft": ("foot", "feet", "英尺"), "mi": ("mile", "miles", "英里"), "yd": ("yard", "yards", "码"),
    "m²": ("square meter", "square meters", "平方米"), "km²": ("square kilometer", "square kilometers", "平方公里"),
    "cm²": ("square centimeter", "square centimeters", "平方厘米"), "m³": ("cubic meter", "cubic meters", "立方米"),
    "cm³": ("cubic centimeter", "cubic centimeters", "立方厘米"),
    "kg": ("kilogram", "kilograms", "公斤"), "g": ("gram", "grams", "克"), "mg": ("milligram", "milligrams", "毫克"),
    "lb": ("pound", "pounds", "磅"), "lbs": ("pound", "pounds", "磅"), "oz": ("ounce", "ounces", "盎司"),
    "L": ("liter", "liters", "升"), "l": ("liter", "liters", "升"), "mL": ("milliliter", "milliliters", "毫升"),
    "ml": ("milliliter", "milliliters", "毫升"),
    "km/h": ("kilometer per hour", "kilometers per hour", "公里每小时"),
    "kph": ("kilometer per hour", "kilometers per hour", "公里每小时"),
    "mph": ("mile per hour", "miles per hour", "英里每小时"),
    "m/s": ("meter per second", "meters per second", "米每秒"),
    "ms": ("millisecond", "milliseconds", "毫秒"), "s": ("second", "seconds", "秒"),
    "sec": ("second", "seconds", "秒"), "min": ("minute", "minutes", "分钟"), "mins": ("minute", "minutes", "分钟"),
    "h": ("hour", "hours", "小时"), "hr": ("hour", "hours", "小时"), "hrs": ("hour", "hours", "小时"),
    "Hz": ("hertz", "hertz", "赫兹"), "kHz": ("kilohertz", "kilohertz", "千赫兹"),
    "MHz": ("megahertz", "megahertz", "兆赫兹"), "GHz": ("gigahertz", "gigahertz", "吉赫兹"),
    "KB": ("kilobyte", "kilobytes", "千字节"), "kB": ("kilobyte", "kilobytes", "千字节"),
    "MB": ("megabyte", "megabytes", "兆字节"), "GB": ("gigabyte", "gigabytes", "吉字节"),
    "TB": ("terabyte", "terabytes", "太字节"), "Mbps": ("megabit per second", "megabits per second", "兆比特每秒"),
    "W": ("watt", "watts", "瓦"), "kW": ("kilowatt", "kilowatts", "千瓦"), "MW": ("megawatt", "megawatts", "兆瓦"),
    "kWh": ("kilowatt hour", "kilowatt hours", "千瓦时"), "V": ("volt", "volts", "伏"),
    "mAh": ("milliampere hour", "milliampere hours", "毫安时"), "dB": ("decibel", "decibels", "分贝"),
    "kcal": ("kilocalorie", "kilocalories", "千卡"), "Pa": ("pascal", "pascals", "帕"),
    "°C": ("degree Celsius", "degrees Celsius", "摄氏度"), "°F": ("degree Fahrenheit", "degrees Fahrenheit", "华氏度"),
    "°": ("degree", "degrees", "度"), "px": ("pixel", "pixels", "像素"),
}
# fmt: on


@dataclass(frozen=True)
class Currency:
    """english: name of one, of many, and of the hundredth part ("" where there is none)."""

    english: tuple[str, str, str]
    mandarin: str


_DOLLAR = ("dollar", "dollars", "cent")
CURRENCIES = {
    "$": Currency(_DOLLAR, "美元"),
    "US$": Currency(("US dollar", "US dollars", "cent"), "美元"),
    "HK$": Currency(("Hong Kong dollar", "Hong Kong dollars", "cent"), "港元"),
    "€": Currency(("euro", "euros", "cent"), "欧元"),
    "£": Currency(("pound", "pounds", "pence"), "英镑"),
    "¥": Currency(("yuan", "yuan", ""), "元"),
    "₩": Currency(("won", "won", ""), "韩元"),
    "₹": Currency(("rupee", "rupees", ""), "卢比"),
}
