from nano.evaluation.texts import same, script


def test_texts_that_say_the_same() -> None:
    assert same("Three plus 4 is 7.", "three plus four is seven", "en")
    assert same("It's 1,200!", "it’s one thousand two hundred", "en")
    assert same("三加4等于7。", "三加四等于七", "zh")
    assert same("答案是12，对吗？", "答案是十二对吗", "zh")
    assert not same("twenty one", "twenty", "en")
    assert script("猫 is cat") is None and script("猫。") == "zh" and script("cat, 3") == "en"
