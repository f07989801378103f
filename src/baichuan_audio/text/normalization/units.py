"""Signs of units and currencies, and their names: English for one and for many, Mandarin."""

from __future__ import annotations

from dataclasses import dataclass

# fmt: off
UNITS: dict[str, tuple[str, str, str]] = {
    "km": ("kilometer", "kilometers", "公里"), "m": ("meter", "meters", "米"),
    "cm": ("centimeter", "centimeters", "厘米"), "mm": ("millimeter", "millimeters", "毫米"),
    "nm": ("nanometer", "nanometers", "纳米"), "μm": ("micrometer", "micrometers", "微米"),
    "in": ("inch", "inches", "英寸"), "ft": ("foot", "feet", "英尺"),
    "mi": ("mile", "miles", "英里"), "yd": ("yard", "yards", "码"),
    "m²": ("square meter", "square meters", "平方米"), "km²": ("square kilometer", "square kilometers", "平方公里"),
    "cm²": ("square centimeter", "square centimeters", "平方厘米"), "m³": ("cubic meter", "cubic meters", "立方米"),
    "cm³": ("cubic centimeter", "cubic centimeters", "立方厘米"),
    "mg/L": ("milligram per liter", "milligrams per liter", "毫克每升"),
    "g/L": ("gram per liter", "grams per liter", "克每升"),
    "μg/m³": ("microgram per cubic meter", "micrograms per cubic meter", "微克每立方米"),
    "g/cm³": ("gram per cubic centimeter", "grams per cubic centimeter", "克每立方厘米"),
    "MB/s": ("megabyte per second", "megabytes per second", "兆字节每秒"),
    "KB/s": ("kilobyte per second", "kilobytes per second", "千字节每秒"),
    "GB/s": ("gigabyte per second", "gigabytes per second", "吉字节每秒"),
    "mmHg": ("millimeter of mercury", "millimeters of mercury", "毫米汞柱"),
    "kPa": ("kilopascal", "kilopascals", "千帕"), "hPa": ("hectopascal", "hectopascals", "百帕"),
    "MPa": ("megapascal", "megapascals", "兆帕"),
    "tbsp": ("tablespoon", "tablespoons", "汤匙"), "tsp": ("teaspoon", "teaspoons", "茶匙"),
    "fps": ("frame per second", "frames per second", "帧每秒"),
    "bpm": ("beat per minute", "beats per minute", "次每分钟"),
    "rpm": ("revolution per minute", "revolutions per minute", "转每分钟"), "kV": ("kilovolt", "kilovolts", "千伏"),
    "mA": ("milliampere", "milliamperes", "毫安"), "Ω": ("ohm", "ohms", "欧姆"),
    "kJ": ("kilojoule", "kilojoules", "千焦"),
    "mg/kg": ("milligram per kilogram", "milligrams per kilogram", "毫克每千克"),
    "KM": ("kilometer", "kilometers", "公里"), "KG": ("kilogram", "kilograms", "公斤"),
    "CM": ("centimeter", "centimeters", "厘米"), "ML": ("milliliter", "milliliters", "毫升"),
    "kg": ("kilogram", "kilograms", "公斤"), "g": ("gram", "grams", "克"), "mg": ("milligram", "milligrams", "毫克"),
    "gal": ("gallon", "gallons", "加仑"),
    "lb": ("pound", "pounds", "磅"), "lbs": ("pound", "pounds", "磅"), "oz": ("ounce", "ounces", "盎司"),
    "L": ("liter", "liters", "升"), "l": ("liter", "liters", "升"), "mL": ("milliliter", "milliliters", "毫升"),
    "ml": ("milliliter", "milliliters", "毫升"),
    "km/h": ("kilometer per hour", "kilometers per hour", "公里每小时"),
    "kph": ("kilometer per hour", "kilometers per hour", "公里每小时"),
    "mph": ("mile per hour", "miles per hour", "英里每小时"),
    "m/s": ("meter per second", "meters per second", "米每秒"),
    "ms": ("millisecond", "milliseconds", "毫秒"), "s": ("second", "seconds", "秒"),
    "sec": ("second", "seconds", "秒"), "secs": ("second", "seconds", "秒"),
    "min": ("minute", "minutes", "分钟"), "mins": ("minute", "minutes", "分钟"),
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
    "JP¥": Currency(("yen", "yen", ""), "日元"),
    "NT$": Currency(("New Taiwan dollar", "New Taiwan dollars", "cent"), "新台币"),
    "A$": Currency(("Australian dollar", "Australian dollars", "cent"), "澳元"),
    "C$": Currency(("Canadian dollar", "Canadian dollars", "cent"), "加元"),
    "S$": Currency(("Singapore dollar", "Singapore dollars", "cent"), "新加坡元"),
    "฿": Currency(("baht", "baht", ""), "泰铢"),
    "₽": Currency(("ruble", "rubles", ""), "卢布"),
    "₩": Currency(("won", "won", ""), "韩元"),
    "₹": Currency(("rupee", "rupees", ""), "卢比"),
}
CURRENCY_CODES = {
    "USD": "US$", "EUR": "€", "GBP": "£", "CNY": "¥", "RMB": "¥", "HKD": "HK$", "JPY": "JP¥", "KRW": "₩", "INR": "₹",
}  # fmt: skip
"""Codes of ISO 4217 (and RMB) as their sign above."""
