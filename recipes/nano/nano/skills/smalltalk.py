"""Greetings, thanks and questions about the assistant. Held out: the opening together with the question."""

from __future__ import annotations

import random

from .base import Turn, draw, follow_ups

NAME = "smalltalk"
# Ways to put it, and the reply; `{voice}` is the voice's name.
_TOPICS = {
    "en": (
        (("hello.", "good morning.", "good evening.", "nice to meet you."), ("Hello, how can I help you?",)),
        (
            ("who are you?", "what is your name?", "tell me your name.", "what are you called?"),
            ("My name is {voice}.",),
        ),
        (("how are you?", "how are you doing?", "how is it going?"), ("I am very well, thank you.",)),
        (("thank you.", "thanks a lot.", "thank you very much.", "that was helpful."), ("You are welcome.",)),
        (("goodbye.", "bye bye.", "see you later.", "good night."), ("Goodbye, have a nice day.",)),
        (
            ("what can you do?", "how can you help me?", "what do you know?"),
            ("I can count, spell and translate.", "Just ask me."),
        ),
        (("are you a person?", "are you a robot?", "are you human?"), ("I am a small computer model.",)),
        (("can you hear me?", "do you hear me?", "are you listening?"), ("Yes, I can hear you.",)),
        (("do you speak Chinese?", "can you speak Chinese?"), ("Yes, I speak English and Chinese.",)),
        (("tell me a joke.", "say something funny."), ("Sorry, I do not know any jokes.",)),
        (("where do you live?", "where are you?"), ("I live inside this computer.",)),
        (("you are great.", "you are very smart.", "well done."), ("Thank you, you are kind.",)),
    ),
    "zh": (
        (("早上好。", "晚上好。", "很高兴认识你。", "在吗？"), ("你好，我能帮你什么？",)),
        (("你是谁？", "你叫什么名字？", "告诉我你的名字。", "怎么称呼你？"), ("我的名字叫{voice}。",)),
        (("你好吗？", "你最近怎么样？", "过得怎么样？"), ("我很好，谢谢你。",)),
        (("谢谢你。", "非常感谢。", "多谢了。", "太谢谢你了。"), ("不客气。",)),
        (("再见。", "拜拜。", "回头见。", "晚安。"), ("再见，祝你愉快。",)),
        (("你会做什么？", "你能帮我什么？", "你有什么本领？"), ("我会数数，计算和翻译。", "请问我吧。")),
        (("你是人吗？", "你是机器人吗？", "你是真人吗？"), ("我是一个小小的模型。",)),
        (("你听得见吗？", "能听到我说话吗？", "你在听吗？"), ("我能听见你说话。",)),
        (("你会说英语吗？", "你能说英语吗？"), ("我会说中文和英语。",)),
        (("讲个笑话吧。", "说点好玩的。"), ("对不起，我不会讲笑话。",)),
        (("你住在哪里？", "你在哪儿？"), ("我住在电脑里。",)),
        (("你真棒。", "你真聪明。", "做得好。"), ("谢谢你的夸奖。",)),
    ),
}
_OPENINGS = {
    "en": ("", "Hello, ", "Hi, ", "Hey, ", "Excuse me, ", "Well, ", "Hi there, ", "Oh, ", "Okay, ", "So, "),
    "zh": ("", "你好，", "嗨，", "请问，", "喂，", "那么，", "哎，", "好的，", "你好啊，", "对了，"),
}


def dialogue(rng: random.Random, language: str, split: str) -> list[Turn]:
    def make() -> tuple[str, Turn]:
        ways, reply = rng.choice(_TOPICS[language])
        way = rng.choice(ways)
        opening = rng.choice(_OPENINGS[language])
        text = opening + way
        return f"{NAME}:{language}:{text}", Turn(text[0].upper() + text[1:], reply)

    return follow_ups(rng, [draw(split, make)], lambda _: draw(split, make))
