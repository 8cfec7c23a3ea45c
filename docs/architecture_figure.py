"""Draw the storeys of the package, from its import contract and what its folders say of themselves.

    python docs/architecture_figure.py

Layers come from ``[tool.importlinter]`` in pyproject.toml, a folder's purpose from its docstring's
first line. Text stands on opaque bands, and what stands beside them is of a middle grey, so that
the picture reads on light pages and dark.
"""

import ast
import math
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "docs" / "figures" / "architecture.svg"

WIDTH, ARROW, EDGE, GAP = 940, 28, 40, 10  # pixels: all, the arrow's, the number's, between boxes
LINE, NAME, PAD = 17, 21, 9  # a line of purpose, a name's line, inside of a box
CHARACTER = 6.9  # the mean width of a purpose's character in the widest of the fonts
BANDS = ("#dbe7f5", "#e6eef0")
STYLE = """
text { font-family: system-ui, "Segoe UI", "DejaVu Sans", Arial, sans-serif; fill: #1d2733 }
.name { font-size: 14px; font-weight: 600 }
.says { font-size: 12.5px; fill: #33414f }
.storey { font-size: 19px; font-weight: 600; fill: #47637f; text-anchor: middle }
.beside { font-size: 13px; fill: #7b8794; text-anchor: middle }
"""


def storeys(root: Path = ROOT) -> list[list[tuple[str, str]]]:
    """The storeys, the highest first: each folder or module with its purpose."""
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    names = [layer.replace("|", " ").replace(":", " ").split() for layer in layers]
    return [[(name, purpose(root / "icl_locate" / name)) for name in some] for some in names]


def purpose(place: Path) -> str:
    """What a folder or module says of itself, in one line, without its own name before it."""
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    says = ast.get_docstring(ast.parse(source.read_text("utf-8")))
    if not says:
        raise SystemExit(f"{source} has no docstring: say in its first line what stands there")
    line = says.splitlines()[0].replace("`", "").removesuffix(".")
    name, _, rest = line.partition(": ")
    return rest[0].upper() + rest[1:] if name.lower() == place.name else line


def columns(n: int) -> int:
    """How many boxes stand beside each other."""
    return {1: 1, 2: 2, 4: 2}.get(n, 3)


def draw(floors: list[list[tuple[str, str]]]) -> str:
    """The picture as SVG."""
    shapes, top = list[str](), 0.0
    for number, floor in enumerate(floors):
        shown, height = _floor(floor, top)
        band = BANDS[number % 2]
        box = f'x="{ARROW}" y="{top:g}" width="{WIDTH - ARROW}" height="{height:g}" rx="8"'
        storey = str(len(floors) - 1 - number)
        shapes += [f'<rect {box} fill="{band}"/>', *shown]
        shapes += [_text("storey", ARROW + EDGE / 2, top + height / 2 + 7, storey)]
        top += height + 6
    shapes += _arrow(top - 6)
    size = f'width="{WIDTH}" height="{top - 6:g}" viewBox="0 0 {WIDTH} {top - 6:g}"'
    title = "<title>The storeys of icl_locate: a folder imports only from storeys below it</title>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, title, f"<style>{STYLE}</style>", *shapes, "</svg>", ""])


def _floor(floor: list[tuple[str, str]], top: float) -> tuple[list[str], float]:
    """The boxes of a storey, and its height."""
    n = columns(len(floor))
    shapes, height = list[str](), float(GAP)
    for row in range(math.ceil(len(floor) / n)):
        boxes = floor[row * n : (row + 1) * n]
        width = (WIDTH - ARROW - EDGE - len(boxes) * GAP) / len(boxes)
        texts = [textwrap.wrap(says, int((width - 2 * PAD) / CHARACTER)) for _, says in boxes]
        tall = NAME + LINE * max(map(len, texts)) + PAD
        for place, ((name, _), lines) in enumerate(zip(boxes, texts, strict=True)):
            left, down = ARROW + EDGE + place * (width + GAP), top + height
            box = f'x="{left:g}" y="{down:g}" width="{width:g}" height="{tall:g}" rx="5"'
            shapes.append(f'<rect {box} fill="#ffffff" stroke="#a9bbcd"/>')
            shapes.append(_text("name", left + PAD, down + NAME, name))
            shapes += [
                _text("says", left + PAD, down + NAME + LINE * number, line)
                for number, line in enumerate(lines, start=1)
            ]
        height += tall + GAP
    return shapes, height


def _arrow(height: float) -> list[str]:
    """What points from the highest storey to the lowest, and says so."""
    x, middle = 20, height / 2
    line = f'<path d="M{x} 8V{height - 14:g}" stroke="#7b8794" stroke-width="1.5"/>'
    head = f'<path d="M{x - 5} {height - 15:g}h10l-5 11z" fill="#7b8794"/>'
    turned = f'<g transform="rotate(-90 12 {middle:g})">'
    return [line, head, turned + _text("beside", 12, middle, "imports point down") + "</g>"]


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


if __name__ == "__main__":
    FIGURE.write_text(draw(storeys()), encoding="utf-8")
    print(FIGURE)
