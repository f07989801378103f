"""The facts of the closed world, in both languages."""

# ruff: noqa: E501  (Chinese characters count twice)

from __future__ import annotations

# English country and capital, Chinese country and capital.
_CAPITALS = (
    "France Paris 法国 巴黎|Italy Rome 意大利 罗马|Japan Tokyo 日本 东京|China Beijing 中国 北京|Spain Madrid 西班牙 马德里|"
    "Germany Berlin 德国 柏林|England London 英国 伦敦|Russia Moscow 俄罗斯 莫斯科|Egypt Cairo 埃及 开罗|Greece Athens 希腊 雅典|"
    "Canada Ottawa 加拿大 渥太华|Korea Seoul 韩国 首尔|Thailand Bangkok 泰国 曼谷|Vietnam Hanoi 越南 河内|Turkey Ankara 土耳其 安卡拉|"
    "Portugal Lisbon 葡萄牙 里斯本|Austria Vienna 奥地利 维也纳|Norway Oslo 挪威 奥斯陆|Sweden Stockholm 瑞典 斯德哥尔摩|"
    "Poland Warsaw 波兰 华沙|Ireland Dublin 爱尔兰 都柏林|Cuba Havana 古巴 哈瓦那|Peru Lima 秘鲁 利马|Kenya Nairobi 肯尼亚 内罗毕|"
    "Iran Tehran 伊朗 德黑兰|Nepal Kathmandu 尼泊尔 加德满都"
)
_OPPOSITES_EN = (
    "hot cold|big small|tall short|fast slow|up down|left right|day night|black white|open closed|happy sad|new old|"
    "rich poor|light dark|hard soft|wet dry|full empty|early late|near far|high low|strong weak|clean dirty|good bad|"
    "long short|thick thin|front back|inside outside|always never|first last|true false|yes no|love hate|win lose|"
    "push pull|buy sell|east west|north south|sweet bitter|quiet loud|easy difficult|awake asleep"
)
_OPPOSITES_ZH = (
    "热 冷|大 小|高 矮|快 慢|上 下|左 右|白天 黑夜|黑 白|开 关|快乐 悲伤|新 旧|富 穷|亮 暗|硬 软|湿 干|满 空|早 晚|近 远|强 弱|"
    "干净 脏|好 坏|厚 薄|前 后|里 外|对 错|爱 恨|赢 输|推 拉|买 卖|东 西|南 北|甜 苦|安静 吵闹|容易 困难|多 少|胖 瘦|深 浅|真 假|生 死|美 丑"
)
_COLOURS_EN = (
    "a banana,yellow|a lemon,yellow|the sun,yellow|corn,yellow|grass,green|a leaf,green|a cucumber,green|a frog,green|"
    "a strawberry,red|blood,red|a tomato,red|a cherry,red|a fire truck,red|the sky,blue|the sea,blue|a blueberry,blue|"
    "snow,white|milk,white|salt,white|rice,white|a cloud,white|coal,black|the night,black|a crow,black|a carrot,orange|"
    "a pumpkin,orange|chocolate,brown|coffee,brown|wood,brown|an elephant,gray|a pig,pink|a grape,purple|an eggplant,purple"
)
_COLOURS_ZH = (
    "香蕉 黄色|柠檬 黄色|太阳 黄色|玉米 黄色|草 绿色|树叶 绿色|黄瓜 绿色|青蛙 绿色|草莓 红色|血 红色|西红柿 红色|樱桃 红色|消防车 红色|天空 蓝色|"
    "大海 蓝色|蓝莓 蓝色|雪 白色|牛奶 白色|盐 白色|米饭 白色|云 白色|煤 黑色|夜晚 黑色|乌鸦 黑色|胡萝卜 橙色|南瓜 橙色|巧克力 棕色|咖啡 棕色|"
    "木头 棕色|大象 灰色|小猪 粉色|葡萄 紫色|茄子 紫色"
)
_TRANSLATIONS = (
    "cat 猫|dog 狗|bird 鸟|fish 鱼|horse 马|cow 牛|sheep 羊|pig 猪|tiger 老虎|rabbit 兔子|monkey 猴子|chicken 鸡|apple 苹果|"
    "banana 香蕉|orange 橙子|water 水|tea 茶|coffee 咖啡|milk 牛奶|rice 米饭|bread 面包|egg 鸡蛋|soup 汤|salt 盐|sugar 糖|"
    "book 书|pen 笔|paper 纸|table 桌子|chair 椅子|door 门|window 窗户|house 房子|car 汽车|train 火车|airplane 飞机|ship 船|"
    "road 路|city 城市|school 学校|teacher 老师|student 学生|doctor 医生|friend 朋友|mother 妈妈|father 爸爸|brother 哥哥|"
    "sister 姐姐|child 孩子|man 男人|woman 女人|head 头|hand 手|eye 眼睛|mouth 嘴巴|heart 心|sun 太阳|moon 月亮|star 星星|"
    "mountain 山|river 河|sea 大海|rain 雨|snow 雪|wind 风|fire 火|tree 树|flower 花|red 红色|blue 蓝色|green 绿色|"
    "black 黑色|white 白色|today 今天|tomorrow 明天|yesterday 昨天|morning 早上|evening 晚上|hello 你好|thank you 谢谢|goodbye 再见"
)


def _pairs(table: str, separator: str = " ") -> dict[str, str]:
    rows = (entry.rsplit(separator, 1) for entry in table.split("|"))
    return {row[0]: row[1] for row in rows}


_CAPITAL_ROWS = [entry.split(" ") for entry in _CAPITALS.split("|")]
CAPITALS = {"en": {row[0]: row[1] for row in _CAPITAL_ROWS}, "zh": {row[2]: row[3] for row in _CAPITAL_ROWS}}
COLOURS = {"en": _pairs(_COLOURS_EN, ","), "zh": _pairs(_COLOURS_ZH)}
_ENGLISH_TO_CHINESE = _pairs(_TRANSLATIONS)
TRANSLATIONS = {"en": _ENGLISH_TO_CHINESE, "zh": {value: key for key, value in _ENGLISH_TO_CHINESE.items()}}


def _both_ways(table: str) -> dict[str, str]:
    forward = _pairs(table)
    return {**{value: key for key, value in forward.items()}, **forward}


# Where two words share an opposite (tall and long, short), the first pair of the list counts.
OPPOSITES = {
    "en": {**_both_ways(_OPPOSITES_EN), "short": "tall", "long": "short"},
    "zh": _both_ways(_OPPOSITES_ZH),
}
