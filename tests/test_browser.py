"""Pages as a reader has them: opened in a browser, by mouse and keyboard, on screen and paper."""

import json
import random
import time
from itertools import pairwise

import pytest
import saved_kinds
import torch
from browser import find_browser, open_page, running

import icl_locate as icl
from icl_locate.report import write_run_report
from icl_locate.report.kinds import kind_of, read_run

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome is installed")

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    '<a href="javascript:alert(3)">press</a>',
    "\"'><svg onload=alert(4)>",
    "%{x}<b>bold</b>&lt;i&gt;",
)
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
PHONE = {"viewport": {"width": 390, "height": 844}}


def swept(n_items=6, n_layers=4, conditions=("examples", "query"), seed=0, texts=None, **changes):
    """A sweep whose answers are right from layer 2 on, at first in part."""
    draw = random.Random(seed)
    targets = [" ".join(draw.choices(WORDS, k=5)) for _ in range(n_items)]
    answers = [
        [
            [[_answer(draw, target, layer) for target in targets] for _ in range(2)]
            for layer in range(n_layers + 1)
        ]
        for _ in conditions
    ]
    right = torch.tensor(
        [[[[float(a == t) for a, t in zip(items, targets, strict=True)] for items in by_seed]
          for by_seed in by_layer] for by_layer in answers],
        dtype=torch.float64,
    )  # fmt: skip
    described = [
        {"name": name, "hide": ["EXAMPLES"], "instruction": False, "keep_self": False}
        for name in conditions
    ]
    parts = {
        "conditions": tuple(conditions),
        "layers": tuple(range(n_layers + 1)),
        "seeds": (0, 1),
        "statistics": torch.stack([right, torch.ones_like(right)], dim=-1),
        "item_scores": right,
        "scores": right.mean(-1),
        "texts": answers if texts is None else texts,
        "sources": tuple(f"query {i} " + draw.choice(WORDS) for i in range(n_items)),
        "targets": tuple(targets),
        "metric": "exact_match",
        "provenance": {"model": "m", "task": "t", "n_shots": 5, "conditions": described},
    }
    return icl.SweepResult(**parts | changes)


def _answer(draw, target, layer):
    words = target.split()
    n_right = min(5, 2 * layer + draw.randint(0, 2))
    return " ".join([*words[:n_right], *draw.choices(WORDS, k=5 - n_right)])


@pytest.fixture(scope="module")
def browser():
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def result():
    return swept()


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    return icl.write_report(result, tmp_path_factory.mktemp("page") / "report.html")


def rows_of(result):
    """Every answer, in the order of the table: condition, layer, seed, item, score, answer."""
    table = result.to_dataframe("answer")
    return [
        (row.condition, row.layer, row.seed, row.item, row.item_score, row.answer)
        for row in table.itertuples()
    ]


def shown(page):
    return page.locator("#answers .status").text_content()


def test_it_asks_for_nothing_and_draws_its_figures(browser, page):
    opened = open_page(browser, page)
    opened.scroll()
    opened.answers()
    headings = opened.page.locator("h2").all_text_contents()
    assert headings[0] == "What was found" and headings[-1] == "How to cite"
    assert opened.page.locator("#part-3 figure svg.main-svg").count() > 0
    opened.check()


def test_a_policy_forbids_what_is_not_the_page_s_own(browser, page, tmp_path):
    text = page.read_text("utf-8")
    changed = tmp_path / "changed.html"
    changed.write_text(text.replace("</main>", "<script>window.ran = 1</script></main>"), "utf-8")
    opened = open_page(browser, changed)
    assert opened.page.evaluate("window.ran === undefined")
    assert any("Content Security Policy" in line for line in opened.said)


@pytest.mark.parametrize(
    ("filters", "lets"),
    [
        ({"select[name=hidden]": 1}, lambda r: r[0] == "query"),
        ({"select[name=layer]": 3}, lambda r: r[1] == 3),
        ({"select[name=seed]": 1, "input[name=item]": 2}, lambda r: (r[2], r[3]) == (1, 1)),
        ({"input[name=score-from]": 1}, lambda r: r[4] >= 1),
        ({"input[name=score-to]": 0.5, "select[name=layer]": 1}, lambda r: not r[4] and r[1] == 1),
    ],
)  # fmt: skip
def test_filters_let_through_what_they_should(browser, page, result, filters, lets):
    opened = open_page(browser, page)
    there = opened.answers()
    for place, value in filters.items():
        field = there.locator(f"#answers {place}")
        field.select_option(str(value)) if "select" in place else field.fill(str(value))
    rows = rows_of(result)
    n = sum(map(lets, rows))
    assert 0 < n < len(rows)
    assert shown(there) == f"{n} of {len(rows)} answers shown"


def test_a_text_is_found_in_queries_answers_and_targets(browser, page, result):
    opened = open_page(browser, page)
    there = opened.answers()
    there.locator("#answers input[name=text]").fill("  ThETa")
    rows = rows_of(result)
    n = sum(
        "theta" in f"{row[5]}|{result.sources[row[3]]}|{result.targets[row[3]]}" for row in rows
    )
    assert 0 < n < len(rows) and shown(there) == f"{n} of {len(rows)} answers shown"


def test_a_heading_sorts_one_way_and_the_other(browser, page, result):
    opened = open_page(browser, page)
    there = opened.answers()
    head = there.locator("#answers th.answer")
    first = there.locator("#answers tr[data-at='0'] td.answer")
    answers = sorted(row[5] for row in rows_of(result))
    for way, expected in (("ascending", answers[0]), ("descending", answers[-1])):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == way
        assert first.text_content() == expected


def test_an_item_is_read_over_the_layers_with_its_differences(browser, page, result):
    opened = open_page(browser, page)
    there = opened.answers()
    there.locator("#answers tr[data-at='8']").click()  # layer 0, seed 1, item 3
    dialog = there.locator("dialog")
    assert dialog.locator("h2").text_content() == "Item 3 of 6"
    dialog.get_by_role("checkbox", name="query", exact=True).check()
    for against in ("above", "wanted"):
        dialog.locator("[data-key=against]").select_option(against)
        for column, by_layer in enumerate(result.texts):
            cells = dialog.locator(f"tbody td:nth-child({column + 2}) .text")
            for layer, by_seed in enumerate(by_layer):
                other = result.targets[2] if against == "wanted" else None
                if against == "above" and layer:
                    other = by_layer[layer - 1][1][2]
                _check_marks(cells.nth(layer), by_seed[1][2], other)
    dialog.get_by_role("button", name="Next item").click()
    assert dialog.locator("h2").text_content() == "Item 4 of 6"
    assert result.sources[3] in dialog.text_content()


def _check_marks(cell, answer, other):
    """What is not struck out is the answer; what is not underlined is what it is held against."""
    parts = cell.evaluate("cell => [...cell.childNodes].map(n => [n.nodeName, n.textContent])")
    said = [text for kind, text in parts if kind != "DEL"]
    assert " ".join("".join(said).split()) == answer
    if other is not None:
        before = [text for kind, text in parts if kind != "INS"]
        assert " ".join("".join(before).split()) == other
        assert (answer == other) == all(kind not in ("INS", "DEL") for kind, _ in parts)


def test_the_keyboard_alone_reaches_reads_and_leaves_an_answer(browser, page, result):
    opened = open_page(browser, page)
    there, keys = opened.page, opened.page.keyboard
    keys.press("Tab")
    assert there.evaluate("document.activeElement.textContent") == "Skip to the finding"
    keys.press("Enter")
    for _ in range(200):
        keys.press("Tab")
        if there.evaluate("document.activeElement.matches('#answers tr')"):
            break
        there.wait_for_timeout(10)
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
        keys.press(key)
    assert there.evaluate("document.activeElement.dataset.at") == "2"
    keys.press("Enter")
    assert there.locator("dialog h2").text_content() == "Item 3 of 6"
    assert there.evaluate("document.activeElement.textContent") == "Close"
    keys.press("ArrowRight")
    assert there.locator("dialog h2").text_content() == "Item 4 of 6"
    keys.press("Escape")
    assert not there.locator("dialog").is_visible()
    assert there.evaluate("document.activeElement.dataset.at") == "2"
    keys.press("End")
    last = len(rows_of(result)) - 1
    assert there.evaluate("document.activeElement.dataset.at") == str(last)
    opened.check()


def test_on_paper_it_is_light_and_has_its_figures(browser, page):
    opened = open_page(browser, page, color_scheme="dark", viewport={"width": 1000, "height": 150})
    assert opened.page.locator("svg.main-svg").count() == 0
    assert len(opened.page.pdf()) > 20_000
    assert opened.page.locator("#part-3 svg.main-svg").count() > 0, "drawn to be printed"
    opened = open_page(browser, page, color_scheme="dark", viewport={"width": 720, "height": 900})
    opened.scroll()
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 720
    tables = opened.page.locator(".scroll:not(details .scroll)")
    widths = tables.evaluate_all("all => all.map((e) => [e.scrollWidth, e.clientWidth])")
    assert widths and all(width <= room for width, room in widths)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert opened.page.evaluate(ground) == "rgb(255, 255, 255)"
    assert opened.page.locator("#finding").is_visible()
    assert not opened.page.locator("nav").is_visible()
    assert not opened.page.locator("#answers .viewer").is_visible()


def _luminance(colour):
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    low = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * low[0] + 0.7152 * low[1] + 0.0722 * low[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_stand_out_from_their_ground(browser, page, scheme):
    """At least 4.5 to 1, the figures' words too."""
    opened = open_page(browser, page, color_scheme=scheme)
    opened.scroll()
    there = opened.page
    ground = there.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (_luminance(ground) > 0.5) == (scheme == "light")
    words = "e => getComputedStyle(e).color", "p, figcaption, td, a"
    drawn = "e => getComputedStyle(e).fill", ".js-plotly-plot text:not(.hoverlayer text)"
    for read, places in (words, drawn):
        colours = set(there.locator(places).evaluate_all(f"all => all.map({read})"))
        assert colours
        for colour in colours:
            low, high = sorted((_luminance(colour), _luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (colour, ground)


def test_a_phone_shows_it_without_scrolling_sideways(browser, page):
    opened = open_page(browser, page, **PHONE)
    opened.scroll()
    there = opened.answers()
    assert there.evaluate("document.documentElement.scrollWidth") == 390
    there.locator("#answers tr[data-at='1']").click()
    assert there.evaluate("document.documentElement.scrollWidth") == 390
    opened.check()


def test_everything_has_a_name_for_those_who_do_not_see_it(browser, page):
    opened = open_page(browser, page)
    there = opened.answers()
    there.locator("#answers tr[data-at='1']").click()
    nameless = there.evaluate("""() => [
        ...[...document.querySelectorAll("input, select")].filter((e) => !e.closest("label")),
        ...[...document.querySelectorAll("[role=img], [role=region]")].filter(
            (e) => !e.getAttribute("aria-label")),
        ...[...document.querySelectorAll("th")].filter((e) => !e.getAttribute("scope")),
        ...[...document.querySelectorAll("section")].filter(
            (e) => !document.getElementById(e.getAttribute("aria-labelledby"))),
    ].map((e) => e.outerHTML)""")
    assert nameless == []
    levels = there.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((e) => e.tagName[1])")
    assert levels[0] == "1" and levels.count("1") == 1
    assert all(int(b) <= int(a) + 1 for a, b in pairwise(levels))


@pytest.mark.parametrize("bypass", [False, True], ids=["policy", "escaped alone"])
def test_hostile_texts_and_names_are_shown_and_do_nothing(browser, tmp_path, bypass):
    n = len(HOSTILE)
    names = HOSTILE[:3]
    result = swept(
        n_items=n,
        conditions=names,
        texts=[[[list(HOSTILE)] * 2] * 5] * 3,
        sources=HOSTILE,
        targets=HOSTILE[::-1],
        provenance={
            "model": HOSTILE[0],
            "task": HOSTILE[1],
            "signature": HOSTILE[2],
            HOSTILE[3]: {HOSTILE[4]: HOSTILE},
            "bare_template": {"source_prefix": HOSTILE[0], "target_prefix": HOSTILE[1]},
            "n_shots": 1,
            "conditions": [{"name": name, "hide": ["EXAMPLES"]} for name in names],
        },
    )
    path = icl.write_report(result, tmp_path / "hostile.html")
    opened = open_page(browser, path, bypass_csp=bypass)
    opened.scroll()
    there = opened.answers()
    there.locator("#answers tr[data-at='0']").click()
    dialog = there.locator("dialog")
    dialog.locator("[data-key=against]").select_option("wanted")
    for name in names[1:]:
        dialog.get_by_role("checkbox", name=name, exact=True).check()
    for text in HOSTILE:
        texts = dialog.locator("td:nth-child(2) .text").first
        texts.evaluate("cell => cell.querySelectorAll('del').forEach((e) => e.remove())")
        assert " ".join(texts.text_content().split()) == " ".join(text.split())
        assert text in dialog.locator("dl").text_content()
        dialog.get_by_role("button", name="Next item").click()
    there.wait_for_timeout(100)
    assert there.locator("img, a[href^=javascript], svg[onload]").count() == 0
    assert HOSTILE[0] in there.locator("h1").text_content()
    assert HOSTILE[4] in there.locator("#recipe").text_content()
    legend = there.locator("#part-3 .legendtext").all_text_contents()
    assert [any(name in text for text in legend) for name in names] == [True] * 3
    opened.check()


def test_figures_show_names_as_they_stand():
    """plotly takes tags for orders in names, labels, titles and hovers."""
    result = swept(conditions=HOSTILE[:2], provenance={"model": HOSTILE[2], "task": HOSTILE[0]})
    figures = [
        icl.plots.layer_curves(result),
        icl.plots.failure_curves(result, icl.failure_rates(result)),
        icl.plots.layer_differences(icl.compare(result)),
        icl.plots.shots_curves({1: result}),
    ]
    for figure in figures:
        plain = json.loads(figure.to_json())
        plain["layout"].pop("meta", None)
        for trace in plain["data"]:
            trace.pop("legendgroup", None)  # not shown
        text = json.dumps(plain)
        assert "&lt;img src" in text
        assert not any(name[:9] in text for name in HOSTILE[:3]), figure.layout.title.text


def test_a_hundred_thousand_answers_open_and_filter_at_once(browser, tmp_path):
    result = swept(n_items=5000, n_layers=9, conditions=("a",), seed=1)
    assert result.item_scores.numel() == 100_000
    path = icl.write_report(result, tmp_path / "large.html", icl.locate(result, n_resamples=50))
    begun = time.perf_counter()
    opened = open_page(browser, path)
    there = opened.answers()
    seconds = time.perf_counter() - begun
    assert there.locator("#answers tbody tr").count() < 80
    there.locator("#answers input[name=text]").fill("alpha beta")
    rows = [
        f"{row[5]}|{result.sources[row[3]]}|{result.targets[row[3]]}" for row in rows_of(result)
    ]
    n = sum("alpha beta" in row for row in rows)
    assert shown(there) == f"{n:,} of 100,000 answers shown"
    assert seconds < 10  # 1 on a machine of its own
    opened.check()


def test_a_browser_that_cannot_unpack_says_so(browser, page):
    opened = open_page(browser, page)
    opened.page.add_init_script("delete window.DecompressionStream")
    opened.page.reload()
    opened.page.locator("#answers").scroll_into_view_if_needed()
    opened.page.get_by_text("cannot unpack").wait_for()


def test_scores_stand_where_there_are_no_answers(browser, tmp_path):
    table = saved_kinds.means(2, 5, 2, 6)
    result = swept(
        metric="log_prob",
        texts=[],
        statistics=table,
        item_scores=table[..., 0],
        scores=table[..., 0].mean(-1),
    )
    opened = open_page(browser, icl.write_report(result, tmp_path / "page.html"))
    there = opened.answers()
    assert shown(there) == "120 of 120 scores shown"
    assert there.locator("#answers th.answer").count() == 0
    there.locator("#answers tr[data-at='0']").click()
    assert there.locator("dialog td").count() == 5
    opened.check()


def pages_of_all_kinds(home):
    """The page of every kind of result that a file can hold, and of several runs."""
    values = {**saved_kinds.VALUES, "formation": saved_kinds.formation_study()}
    for name, value in values.items():
        found = read_run(value.save(home / name.replace(" ", "_")))
        yield kind_of(found).write(home / f"{name}.html", found, 0.95)
    values["scores"].save(home / "induction" / "heads")
    values["ablation"].save(home / "induction" / "ablation")
    found = read_run(home / "induction")
    yield kind_of(found).write(home / "induction.html", found, 0.95)
    yield write_run_report(home / "runs.html", {"one": swept(), "two": swept(seed=1)})


def test_every_kind_of_page_opens_on_a_phone(browser, tmp_path):
    for path in pages_of_all_kinds(tmp_path):
        opened = open_page(browser, path, **PHONE)
        opened.scroll()
        there = opened.page
        assert there.evaluate("document.documentElement.scrollWidth") == 390, path.name
        assert there.locator("#finding .lead").text_content(), path.name
        n_figures = there.locator("figure.plot").count()
        assert there.locator("figure.plot .canvas svg.main-svg").count() >= n_figures, path.name
        opened.check()
        there.close()
