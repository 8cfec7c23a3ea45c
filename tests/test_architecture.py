"""The page about the architecture: its picture is of the package as it is now, its paths exist."""

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DRAWN = runpy.run_path(str(ROOT / "docs" / "architecture_figure.py"))


SPACE = "{http://www.w3.org/2000/svg}"


def parse(picture):
    return ET.fromstring(picture)  # noqa: S314 - it is our own


def texts(picture):
    return [node.text for node in parse(picture).iter(f"{SPACE}text")]


def test_the_picture_is_what_the_script_draws_now():
    drawn = DRAWN["draw"](DRAWN["storeys"]())
    assert DRAWN["FIGURE"].read_text("utf-8") == drawn, "run python docs/architecture_figure.py"


def test_the_picture_shows_every_folder_once():
    shown = texts(DRAWN["FIGURE"].read_text("utf-8"))
    folders = {path.parent.name for path in (ROOT / "icl_locate").glob("*/__init__.py")}
    assert len(folders) > 15
    assert {name: shown.count(name) for name in folders} == dict.fromkeys(folders, 1)


def sides(rect):
    left, top, width, height = (float(rect.get(key, 0)) for key in ("x", "y", "width", "height"))
    return left, left + width, top, top + height


@pytest.mark.parametrize("n", [1, 2, 4, 5, 10])
def test_no_text_leaves_its_box_or_storey(n):
    """A folder more, with a long purpose, is still drawn inside the picture."""
    floors = [[(f"folder_{i}", "word " * 40) for i in range(n)], [("low", "short")]]
    picture = parse(DRAWN["draw"](floors))
    rooms = [sides(rect) for rect in picture.iter(f"{SPACE}rect")]
    inside = [t for t in picture.iter(f"{SPACE}text") if t.get("class") in ("name", "says")]
    assert len(inside) > 3 * n
    for text in inside:
        x, y = float(text.get("x")), float(text.get("y"))
        around = [room for room in rooms if room[0] < x < room[1] and room[2] < y < room[3]]
        assert len(around) == 2, "its storey and its box"
    assert max(bottom for *_, bottom in rooms) == float(picture.get("height"))
    assert max(right for _, right, *_ in rooms) <= float(picture.get("width"))


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_places_that_a_page_names_exist(page):
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"`([a-z_/0-9]+(?:/|\.(?:py|pyi|toml|md)))`", text)
    assert len(named) > 2
    for place in named:
        assert (ROOT / place).exists() or (ROOT / "icl_locate" / place).exists(), place


def test_where_modules_went_is_true():
    """The changelog's table: what is new there is found, what is old is not."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    rows = re.findall(r"^  \| (`.*`) \| (`.*) \|$", text, re.M)[1:]
    old, new = (
        [name for row in rows for name in re.findall(r"`([\w.]+)`", row[side])] for side in (0, 1)
    )
    assert len(old) > 25 and len(new) > 20
    for name in new:
        assert (ROOT / "icl_locate" / f"{name.replace('.', '/')}.py").is_file(), name
    for name in old:
        assert not (ROOT / "icl_locate" / f"{name.replace('.', '/')}.py").exists(), name
