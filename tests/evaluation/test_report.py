"""The HTML report: figures, published figures, every item; hostile texts, and no request to anybody."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import soundfile

from baichuan_audio.cli import main
from baichuan_audio.evaluation.judge.api import MatchJudge
from baichuan_audio.evaluation.report.charts import Interval, interval_chart, time_chart, timeline
from baichuan_audio.evaluation.report.html import isolated, text
from baichuan_audio.evaluation.report.items import cards
from baichuan_audio.evaluation.report.page import _cell, write_report
from baichuan_audio.evaluation.report.sounds import Sounds
from baichuan_audio.evaluation.results import EvaluationError, encode_row
from baichuan_audio.evaluation.suites.run import run_suite

from .conftest import RATE, ROWS, ScriptedRecogniser, ScriptedSystem, tone, write_benchmark, write_table

HOSTILE = "</bdi></p><script>alert(1)</script><img src=x onerror=alert(2)>\" ' & \x00\x1b\u202egnp.exe"
WIDTHS = (1280, 390, 320)
ELEMENTS = {
    *(
        "html",
        "head",
        "meta",
        "link",
        "title",
        "style",
        "body",
        "header",
        "nav",
        "main",
        "section",
        "footer",
        "details",
    ),
    *("summary", "div", "h1", "h2", "h3", "p", "ul", "li", "a", "b", "bdi", "span", "code", "small", "wbr"),
    *("table", "thead", "tbody", "tr", "th", "td", "fieldset", "legend", "label", "input"),
    *("audio", "svg", "line", "circle", "rect", "text"),
}


class Elements(HTMLParser):
    """Names of all elements and attributes, as a browser sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenAudioBench by a system whose replies attack the page, in all settings, and a live session that does."""
    root = tmp_path_factory.mktemp("report")
    data = write_benchmark(root / "data")
    table = data / "eval_datas" / "llama_questions" / "llama_questions.csv"
    rows = [{**row, "audio_filename": f"{index}.wav"} for index, row in enumerate(ROWS["llama_questions"])]
    write_table(table, [{**rows[0], "Questions": "Capital of France? <b>now</b>"}, *rows[1:]])
    system = ScriptedSystem(
        {"Capital of France? <b>now</b>": f"Paris {HOSTILE}", "How many legs has a spider?": "six"},
        failing=("Which town is Bohemia's capital?",),
    )
    settings = ("t2t", "s2t", "s2s_text", "s2s_asr")
    run_suite(
        "openaudiobench", data, system, root / "oab.jsonl", judge=MatchJudge(), recogniser=ScriptedRecogniser(),
        settings=settings, log=lambda _: None,
    )  # fmt: skip
    soundfile.write(root / "live.wav", tone(), RATE)
    header = {"kind": "header", "format": 1, "suite": "full_duplex_bench", "system": {"address": HOSTILE}}
    row = {
        "kind": "output", "id": f"v1_0/a_turn_taking/{HOSTILE}", "subset": "v1_0/a_turn_taking", "task": "turn_taking",
        "window": [1.0, 1.4], "question": HOSTILE, "seconds": 4.0, "segments": [[1.6, 3.0]], "lag_s": 0.02,
        "words": [[1.6, HOSTILE]], "cuts": [[3.0, 1.0]], "events": [], "server_errors": [], "response_s": None,
        "audio": "live.wav",
    }  # fmt: skip
    (root / "live.jsonl").write_bytes(encode_row(header) + encode_row(row))
    return root


def report(results: Path, page: Path, **options: Any) -> str:
    files = [results / "oab.jsonl", results / "live.jsonl"]
    write_report(files, page, data={"openaudiobench": results / "data"}, log=lambda _: None, **options)
    return page.read_text(encoding="utf-8")


def test_figures_items_and_published_figures(results: Path, tmp_path: Path) -> None:
    page = report(results, tmp_path / "report.html")
    assert page.count('<details class="item') == 9
    assert "✓ right" in page and "✗ wrong" in page and "! failed" in page and "– not judged" in page
    assert "Kimi-Audio README" in page and "79.3" in page and "<b>measured here</b>" in page
    assert "speech tax, s2t → s2s_text" in page and "spoken question, text, strict" in page
    assert page.count("data:audio/mpeg;base64,") == 16  # eight questions, seven replies, one session
    assert page.count("<svg") >= 3 and 'class="cut"' in page


def test_texts_cannot_leave_their_place(results: Path, tmp_path: Path) -> None:
    page = report(results, tmp_path / "report.html", title=HOSTILE)
    assert "<script" not in page and "<img" not in page and "\x00" not in page and "\x1b" not in page
    parser = Elements()
    parser.feed(page)
    assert parser.tags <= ELEMENTS and not any(name.startswith("on") for name in parser.attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "&lt;b&gt;now&lt;/b&gt;" in page
    # What turns the direction of writing stands in an element that ends with it, wherever it is content.
    outside = re.sub(r"<bdi>.*?</bdi>|<title>[^<]*</title>|\"[^\"]*\"", "", page)
    assert "\u202e" not in outside
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert text("<\x00>'\"") == "&lt;\ufffd&gt;&#x27;&quot;" and isolated("a") == "<bdi>a</bdi>"


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        ({"value": 61.667, "counted": 2}, "61.7<small><bdi>2 counted</bdi></small>"),
        ({"value": 50.0, "counted": 2, "left_out": 1}, "50.0<small><bdi>2 counted, 1 left out</bdi></small>"),
        ({"value": 100.0, "pairs": 6}, "100.0<small><bdi>6 pairs</bdi></small>"),
        ({"value": None, "low": None, "high": None, "items": 0}, "–<small><bdi>no interval, n 0</bdi></small>"),
    ],
)
def test_figures_of_every_suite_have_a_cell(figure: dict[str, Any], shown: str) -> None:
    assert _cell(figure) == shown


def test_cards_of_every_kind_of_row(tmp_path: Path) -> None:
    """What is read aloud, rebuilt from codes, translated, and compared by likelihood."""
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    version = {"asr": "one", "audio": "a.wav", "measures": {"pesq": 2.345}}
    kinds = {
        "tts": {"text": "one", "asr": "won", "audio": "a.wav", "measures": {"dnsmos": 3.1}},
        "codec": {"versions": {"original": version, "decoded": version}},
        "s2t_loss": {"losses": [1.5, 2.25]},
        "s2tt": {"text": "一"},
    }
    base = {"kind": "output", "question": "one", "references": ["one"], "language": "en"}
    rows = [{**base, "id": kind, "subset": "en", "replies": {kind: reply}} for kind, reply in kinds.items()]
    page = tmp_path / "page.html"
    shown = [card.html for card in cards(rows, tmp_path / "r.jsonl", {}, {}, Sounds(page, embed=False))]
    assert "dnsmos 3.1" in shown[0] and "won" in shown[0] and 'src="a.wav"' in shown[0]
    assert shown[1].count("pesq 2.35") == 2 and shown[1].count("<audio") == 2
    assert "1.500, 2.250" in shown[2] and "一" in shown[3]


def test_linked_sounds_lie_beside_the_page(results: Path, tmp_path: Path) -> None:
    page = report(results, tmp_path / "deep" / "report.html", embed=False)
    sources = re.findall(r'<audio[^>]* src="([^"]*)"', page)
    assert len(sources) == 16 and all((tmp_path / "deep" / source).resolve().is_file() for source in sources)


def test_command_and_trouble(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "r.html"
    report = ["eval", "report", "--output", str(page)]
    assert main([*report, str(results), "--data", str(results)]) == 0
    assert "MB." in capsys.readouterr().out and page.is_file()
    assert main([*report, str(tmp_path / "none.jsonl")]) == 2
    assert "there is no result file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([*report, str(tmp_path / "empty")]) == 2
    assert "there is no result file in this folder" in capsys.readouterr().err
    unknown = tmp_path / "unknown.jsonl"
    unknown.write_text(json.dumps({"kind": "header", "format": 1, "suite": "singing"}) + "\n")
    with pytest.raises(EvaluationError, match="no suite 'singing'"):
        write_report([unknown], page)


def test_charts_keep_what_they_show_within_them() -> None:
    rows = [Interval("<a>", 50.0, 40.0, 60.0), Interval("b" * 99, 130.0, None, None), Interval("c", 0.0, 0.0, 7.1)]
    chart = interval_chart(rows, "t & u")
    assert "&lt;a&gt;" in chart and "…" in chart and "t &amp; u" in chart and chart.count('class="dot"') == 3
    assert chart.count('class="interval"') == 2
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', chart)]
    assert places[0] < places[1] < 760 and places[2] == 310
    assert interval_chart([], "none") == "" and time_chart([("a", [])], "none") == ""
    assert time_chart([("a", [0.5, 1.5])], "s").count('class="time"') == 2
    assert timeline(4.0, None, [], []).count("<rect") == 0


def test_in_a_browser(results: Path, tmp_path: Path) -> None:
    """Wide and on phones: nothing is wider than the window, no script ran, nobody is asked, sounds can be played."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    from page_tools import chromium

    if chromium() is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    report(results, tmp_path / "report.html", title=HOSTILE)
    asked: list[str] = []
    faults: list[str] = []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: faults.append(line.text))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto((tmp_path / "report.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        length = page.evaluate(
            "() => { const a = document.querySelector('audio'); a.preload = 'metadata'; a.load();"
            " return new Promise((resolve) => { a.onloadedmetadata = () => resolve(a.duration);"
            " a.onerror = () => resolve(-1); }); }"
        )
        assert length == pytest.approx(0.2, abs=0.1)
        page.check("input[value=failed]")
        shown = page.evaluate("[...document.querySelectorAll('#s1 .item')].filter((e) => e.offsetParent).length")
        assert shown == 1
        browser.close()
    assert [url[:5] for url in asked if not url.startswith(("file:", "data:"))] == [] and faults == []
