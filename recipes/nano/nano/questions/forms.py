"""Questions as people ask them: forms with a topic, and forms with facts to fill in. Some forms are never trained."""

from __future__ import annotations

import random
from collections.abc import Sequence

TOPIC_FORMS = (
    "Tell me about {a}.",
    "Tell me something about {a}.",
    "Tell me something interesting about {a}.",
    "Can you tell me a fun fact about {a}?",
    "What do you know about {a}?",
    "What can you tell me about {a}?",
    "What should I know about {a}?",
    "What do you think about {a}?",
    "What makes {a} special?",
    "What is the best thing about {a}?",
    "What is the worst thing about {a}?",
    "What do people like about {a}?",
    "Why do people like {a}?",
    "Why do some people not like {a}?",
    "Why do children like {a}?",
    "Do you like {a}?",
    "How would you describe {a}?",
    "How would you explain {a} to a child?",
    "Explain {a} in simple words.",
    "Please explain {a} to me.",
    "Where can I find {a}?",
    "Where can I learn more about {a}?",
    "How can I learn about {a}?",
    "Give me one sentence about {a}.",
    "Give me some advice about {a}.",
    "Tell me a short story about {a}.",
    "Make up a story about {a}.",
    "Write a short poem about {a}.",
    "Say something nice about {a}.",
    "I am afraid of {a}. What should I do?",
    "I love {a}. What about you?",
    "I want to talk about {a}.",
    "I had a dream about {a} last night.",
    "I have to write an essay about {a}. How do I start?",
    "My daughter asked me about {a}. What should I tell her?",
    "Can you help me understand {a}?",
    "Can I ask you something about {a}?",
    "Is there anything strange about {a}?",
    "Are people right to worry about {a}?",
    "What is a good book about {a}?",
    "What is a good question about {a}?",
    "What comes to your mind when you hear about {a}?",
    "What is the difference between {a} and {b}?",
    "What do {a} and {b} have in common?",
    "Which do you like more, {a} or {b}?",
    "Which is more important, {a} or {b}?",
    "Would you rather talk about {a} or {b}?",
    "How are {a} and {b} connected?",
    "Compare {a} with {b}.",
    "Tell me one thing about {a} and one about {b}.",
)
HELD_OUT_TOPIC_FORMS = (
    "What would you say to somebody who asks about {a}?",
    "Could you give me a short summary of {a}?",
    "Why should I care about {a}?",
    "What surprised people about {a}?",
    "Do {a} and {b} go well together?",
)
"""Forms for evaluation alone."""

_COUNTRIES = (
    "France|Germany|Italy|Spain|Portugal|England|Scotland|Ireland|Norway|Sweden|Finland|Denmark|Poland|Austria|Greece|"
    "Turkey|Russia|Hungary|Belgium|the Netherlands|Switzerland|Egypt|Kenya|Nigeria|Morocco|South Africa|Ethiopia|"
    "India|China|Japan|Korea|Thailand|Vietnam|Indonesia|Australia|New Zealand|Canada|Mexico|Brazil|Argentina|Chile|"
    "Ukraine|Peru|Colombia|Cuba|Iran|Iraq|Israel|Pakistan|Nepal"
)
_ANIMALS = (
    "dog|cat|horse|cow|sheep|pig|lion|tiger|bear|wolf|fox|rabbit|mouse|frog|snake|spider|bee|ant|whale|shark|owl|"
    "eagle|penguin|duck|chicken|elephant|monkey|camel|zebra|giraffe|kangaroo|panda|turtle|crocodile|dolphin|goat|"
    "deer|butterfly"
)
_JOBS = (
    "doctor|nurse|teacher|baker|farmer|pilot|lawyer|judge|plumber|carpenter|dentist|engineer|scientist|waiter|"
    "cook|painter|singer|soldier|sailor|tailor|librarian|gardener|journalist|mechanic|astronaut|police officer|"
    "fire fighter"
)
_THINGS = (
    "banana|lemon|tomato|strawberry|carrot|orange|grape|lime|cherry|potato|rose|sunflower|leaf|snowflake|cloud|"
    "fire truck|school bus|polar bear|flamingo|raven|frog|coin|ruby|emerald"
)
_WORDS = (
    "hot|big|fast|happy|dark|new|hard|high|loud|rich|strong|early|full|open|dry|heavy|long|wide|young|clean|"
    "cheap|easy|near|inside|above|push|buy|win|love|start|remember|day|summer|front|true|always|friend|peace|"
    "success"
)
_MEANINGS = (
    "courage|freedom|gravity|patience|democracy|electricity|a metaphor|a habit|justice|evolution|a recipe|"
    "an island|honesty|a fossil|curiosity|a volcano|pollution|recycling|an atom|energy|imagination|a miracle|"
    "wisdom|a tradition|inflation|a mammal|photosynthesis|a galaxy|gratitude|a proverb"
)
_USES = (
    "hammer|spoon|umbrella|pencil|clock|mirror|knife|lamp|broom|ladder|pillow|towel|key|compass|microscope|"
    "telescope|thermometer|camera|calculator|refrigerator|map|bicycle|candle|needle|rope|wheel|magnet|battery"
)
_DISHES = (
    "bread|pancakes|tomato soup|an omelet|a salad|pizza|coffee|tea|rice|pasta|an apple pie|a birthday cake|"
    "a sandwich|lemonade|cookies|fried eggs|mashed potatoes|hot chocolate"
)
_TROUBLES = (
    "I cannot sleep|I am tired|I am sad today|I am bored|I feel lonely|I have a headache|I have a cold|"
    "I am late for work|I lost my keys|I forgot my umbrella|I had a bad day|I am nervous about my exam|"
    "I am hungry|my back hurts|I miss my family|I want to save money|I want to lose weight|"
    "I want to learn a language|I want to make new friends|I want to get up earlier"
)
_WHYS = (
    "is the sky blue|is the sea salty|do we sleep|do we dream|do birds sing|do leaves fall in autumn|"
    "do cats purr|do dogs bark|do people laugh|do we cry|is ice slippery|does the moon shine|"
    "is it cold in winter|do we have seasons|does bread rise|do stars twinkle|do we need water|"
    "do plants need light|do ships float|do planes fly|do we yawn|do apples fall|is blood red|is grass green|"
    "do bees make honey|do volcanoes erupt|do people travel|do we celebrate birthdays|do magnets attract iron|"
    "is exercise healthy"
)

FACT_FORMS = (
    ("What is the capital of {x}?", _COUNTRIES),
    ("Which language do people speak in {x}?", _COUNTRIES),
    ("On which continent is {x}?", _COUNTRIES),
    ("What is {x} famous for?", _COUNTRIES),
    ("What do people eat in {x}?", _COUNTRIES),
    ("What is the weather like in {x}?", _COUNTRIES),
    ("What does a {x} eat?", _ANIMALS),
    ("Where does a {x} live?", _ANIMALS),
    ("How many legs does a {x} have?", _ANIMALS),
    ("What sound does a {x} make?", _ANIMALS),
    ("What is a baby {x} called?", _ANIMALS),
    ("What does a {x} do all day?", _JOBS),
    ("How do I become a {x}?", _JOBS),
    ("Where does a {x} work?", _JOBS),
    ("What color is a {x}?", _THINGS),
    ("What is the opposite of {x}?", _WORDS),
    ("What does the word {x} mean?", _WORDS),
    ("What is another word for {x}?", _WORDS),
    ("What is {x}?", _MEANINGS),
    ("Can you give me an example of {x}?", _MEANINGS),
    ("What is a {x} used for?", _USES),
    ("Who invented the {x}?", _USES),
    ("How do I make {x}?", _DISHES),
    ("What do I need for {x}?", _DISHES),
    ("{x}. What should I do?", _TROUBLES),
    ("{x}. Can you help me?", _TROUBLES),
    ("Why {x}?", _WHYS),
)
HELD_OUT_FACT_FORMS = (
    ("Which city is the capital of {x}?", _COUNTRIES),
    ("What kind of food does a {x} like?", _ANIMALS),
    ("Tell me the opposite of {x}.", _WORDS),
    ("What is a {x} good for?", _USES),
    ("What does a {x} do for a living?", _JOBS),
)
_FACT_SHARE = 0.4


def formed_question(choose: random.Random, topics: Sequence[str], held_out: bool = False) -> str:
    """A question of one of the forms; `held_out`: of those that training never sees."""
    if choose.random() < _FACT_SHARE:
        form, fillers = choose.choice(HELD_OUT_FACT_FORMS if held_out else FACT_FORMS)
        filler = choose.choice(fillers.split("|"))
        question = _with_article(form.format(x=filler))
        return question[0].upper() + question[1:]
    first, second = choose.sample(list(topics), 2)
    return choose.choice(HELD_OUT_TOPIC_FORMS if held_out else TOPIC_FORMS).format(a=first, b=second)


def _with_article(text: str) -> str:
    """ "a owl" -> "an owl"."""
    words = text.split(" ")
    for index, word in enumerate(words[:-1]):
        if word == "a" and words[index + 1][0] in "aeiou" and not words[index + 1].startswith("uni"):
            words[index] = "an"
    return " ".join(words)
