"""Plain sentences made from word lists: for reading aloud, transcribing and repeating."""

# ruff: noqa: E501, SIM905  (Chinese characters count twice; word lists read best as one string)

from __future__ import annotations

import random

from baichuan_audio.text.normalization.number_words import number_in

_EN = {
    "who": "the teacher|my brother|her sister|the doctor|our neighbor|a young woman|the old man|the children|my mother|his father|"
    "the driver|a little girl|the farmer|the students|my best friend|the cook|a tall boy|the singer|their uncle|the baker|"
    "the nurse|an engineer|the painter|my cousin|the king|a police officer|the waiter|the pilot|my grandmother|the soldier",
    "did": "bought|found|lost|wanted|saw|carried|sold|brought|cleaned|forgot|opened|painted|showed us|looked at|asked for|"
    "talked about|remembered|dropped|fixed|took|kept|chose|washed|moved|hid|liked|shared|used|picked up|thought about",
    "what": "a red apple|the big box|an old book|some fresh bread|the blue car|a warm coat|the small key|a cup of tea|the green chair|"
    "a bottle of water|the kitchen window|a long letter|the yellow flowers|a pair of shoes|the heavy bag|a new phone|"
    "the broken clock|a birthday cake|the white horse|a bowl of soup|the wooden table|a piece of paper|the garden door|"
    "a good idea|the morning paper|a bag of rice|the brown dog|a glass of milk|the silver spoon|a picture of the sea",
    "where": "in the garden|at the station|near the river|in front of the house|behind the school|on the bridge|at the market|"
    "in the kitchen|under the tree|by the window|in the city|on the mountain|at the library|beside the road|in the village|"
    "next to the church|at the airport|in a small shop|on the beach|across the street",
    "when": "yesterday|this morning|last week|on Monday|in the evening|after lunch|before dinner|at night|two days ago|"
    "in the summer|last year|on Friday|at noon|early today|in the spring|after the rain|at six|every day|again|last winter",
    "is": "warm|very quiet|too small|almost empty|really beautiful|quite old|open today|full of people|far away|not expensive|"
    "better than before|cold and dark|easy to find|hard to see|clean and bright|wet from the rain|ready now|always busy",
    "thing": "the weather|this room|the road|her voice|the water|that house|the market|his answer|the train|our garden|the music|"
    "the night|this coffee|the museum|the forest|my jacket|the movie|the street|the river|their kitchen",
    "plan": "go home|learn to swim|read a story|cook some fish|wait for the bus|visit the museum|write to her friend|play the piano|"
    "drink some water|climb the hill|call the office|walk to work|buy a ticket|plant a tree|take a picture|sing a song|"
    "clean the floor|sleep a little longer|catch the last train|change the light",
    "why": "because it is late|if the sun shines|when the rain stops|because we are hungry|before the shop closes|"
    "while the baby sleeps|after the game|because the door is open|as soon as possible|when summer comes",
}
_EN_FORMS = (
    "{who} {did} {what}.",
    "{who} {did} {what} {where}.",
    "{when}, {who} {did} {what}.",
    "{who} {did} {what} {when}.",
    "{thing} is {is}.",
    "{thing} is {is} {when}.",
    "{who} wants to {plan}.",
    "I would like to {plan} {why}.",
    "Let us {plan} {when}.",
    "{thing} {where} is {is}.",
    "There were {number} birds {where}.",
    "We need {number} chairs, {why}.",
)
_ZH = {
    "who": "老师|我的弟弟|她的姐姐|医生|邻居|一个年轻人|那位老人|孩子们|我妈妈|他爸爸|司机|小女孩|农民|学生们|我的好朋友|厨师|那个男孩|歌手|叔叔|护士|"
    "工程师|画家|表哥|国王|警察|服务员|飞行员|奶奶|士兵|我们的经理",
    "did": "买了|找到了|丢了|想要|看见了|卖掉了|带来了|洗了|忘记了|打开了|画了|喜欢|记得|修好了|拿走了|选了|搬走了|用过|送给我|谈到了",
    "what": "一个红苹果|那个大箱子|一本旧书|新鲜的面包|蓝色的汽车|一件暖和的大衣|那把小钥匙|一杯热茶|绿色的椅子|一瓶水|厨房的窗户|一封长信|黄色的花|一双鞋|"
    "很重的书包|新手机|坏了的钟|生日蛋糕|一匹白马|一碗面条|木头桌子|一张纸|花园的门|一个好主意|今天的报纸|一袋大米|那只小狗|一杯牛奶|银色的勺子|一张海边的照片",
    "where": "花园里|车站|河边|房子前面|学校后面|桥上|市场|厨房里|大树下|窗户旁边|城里|山上|图书馆|路边|村子里|机场|小商店里|海滩上|街对面|办公室",
    "when": "昨天|今天早上|上个星期|星期一|晚上|午饭以后|晚饭以前|半夜|前天|夏天|去年|星期五|中午|刚才|春天|下雨以后|六点钟|每天|冬天|周末",
    "is": "很暖和|非常安静|太小了|快空了|真漂亮|有点旧|今天开门|人很多|离这里很远|不贵|比以前好|又冷又黑|很容易找|看不清楚|干净明亮|准备好了|总是很忙|特别有意思",
    "thing": "天气|这个房间|那条路|她的声音|河水|那座房子|市场|他的回答|火车|我们的花园|音乐|夜里|这杯咖啡|博物馆|森林|我的外套|这部电影|街上|公园|他们的厨房",
    "plan": "回家|学游泳|看故事书|做一条鱼|等公共汽车|参观博物馆|给朋友写信|弹钢琴|喝一点水|爬山|打电话|走路上班|买票|种一棵树|拍照片|唱歌|打扫房间|多睡一会儿|坐火车去北京|换一盏灯",
    "why": "因为时间不早了|要是出太阳的话|等雨停了|因为大家都饿了|趁商店还没关门|等孩子睡着了|比赛结束以后|因为门开着|越快越好|等到夏天",
}
_ZH_FORMS = (
    "{who}{did}{what}。",
    "{when}{who}{did}{what}。",
    "{who}在{where}，{did}{what}。",
    "{thing}{is}。",
    "{when}{thing}{is}。",
    "{who}想{plan}。",
    "我想{plan}，{why}。",
    "{when}我们一起{plan}吧。",
    "{where}有{number}只鸟。",
    "我们需要{number}把椅子，{why}。",
)
_WORDS = {
    "en": "red blue green apple water house moon sun river bread chair window garden music summer winter bird horse stone fire "
    "paper table silver golden morning evening yellow orange doctor teacher".split(),
    "zh": "红色 蓝色 绿色 苹果 水 房子 月亮 太阳 河 面包 椅子 窗户 花园 音乐 夏天 冬天 小鸟 大马 石头 火 纸 桌子 早上 晚上 黄色 老师".split(),
}


def sentence(rng: random.Random, language: str) -> str:
    """One sentence with its punctuation."""
    forms, parts = (_EN_FORMS, _EN) if language == "en" else (_ZH_FORMS, _ZH)
    words = {name: rng.choice(choices.split("|")) for name, choices in parts.items()}
    number = rng.randint(2, 99)
    words["number"] = "两" if language == "zh" and number == 2 else number_in(language, number)
    text = rng.choice(forms).format(**words)
    return text[0].upper() + text[1:]


def word_list(rng: random.Random, language: str, count: int) -> list[str]:
    """Different words of the closed list."""
    return rng.sample(_WORDS[language], count)


def digits(rng: random.Random, language: str, count: int) -> list[str]:
    return [number_in(language, rng.randrange(10)) for _ in range(count)]
