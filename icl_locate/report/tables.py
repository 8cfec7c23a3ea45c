"""Tables, lists and paragraphs: for pages, in which all text is escaped, and for a terminal."""

import html
from collections.abc import Sequence


def paragraphs(lines: Sequence[str]) -> str:
    """Plain texts as paragraphs."""
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def html_list(lines: Sequence[str]) -> str:
    """Plain texts as a list; nothing if there are none."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def html_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    words: bool = False,
) -> str:
    """A table as HTML, in a frame that scrolls where the page is narrow.

    Args:
        headers: of the columns; the first column is the header of its row.
        caption: what the table shows.
        words: whether its columns hold texts, which begin at the left.
    """
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in headers)
    body = "".join(_html_row(row) for row in rows)
    says = html.escape(caption)
    label = html.escape(caption or " ".join(headers), quote=True)
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table{kind}>'
        f"{f'<caption>{says}</caption>' if says else ''}<thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _html_row(row: Sequence[str]) -> str:
    first, *rest = row
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
    return f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>'


def align_table(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right.

    A header may have several lines.
    """
    parts = [header.split("\n") for header in headers]
    height = max(map(len, parts))
    above = list(zip(*[[""] * (height - len(part)) + part for part in parts], strict=True))
    rows = [*above, *body]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headers))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines[:height], "  ".join("-" * width for width in widths), *lines[height:]])
