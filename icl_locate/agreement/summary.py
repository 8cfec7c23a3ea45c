"""What several methods say together, in words."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from icl_locate.agreement.witness import UNRESOLVED, MethodDifference, Witness

_WIDTH = 100


def summarise(
    witnesses: Sequence[Witness],
    differences: Sequence[MethodDifference],
    n_layers: int,
    left_out: Mapping[str, str],
    what: str,
) -> str:
    """A text of lines: each method's layer, the pairs that differ, and what stays open."""
    lines = [
        f"{what}: one axis from layer 0 to {n_layers}, where L is the stream that enters layer L",
        *_table(witnesses),
        "",
        *together(witnesses, differences),
        "",
        "What each cannot show:",
        *_listed({one.method: one.cannot_show for one in witnesses}),
    ]
    notes = {one.method: "; ".join(one.notes) for one in witnesses if one.notes}
    if notes:
        lines += ["", "How it was measured:", *_listed(notes)]
    if left_out:
        lines += ["", "Left out:", *_listed(left_out)]
    return "\n".join(lines)


def _table(witnesses: Sequence[Witness]) -> list[str]:
    """A row a method: name, layer, effect, question."""
    rows = [
        (one.method, one.label, f"{one.worth} {one.metric.replace('_', ' ')}", one.question)
        for one in witnesses
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]


def together(witnesses: Sequence[Witness], differences: Sequence[MethodDifference]) -> list[str]:
    """Which differ, which are not shown to, and which say nothing."""
    differ = [one for one in differences if one.verdict in ("later", "earlier")]
    alike = [one for one in differences if one.verdict == "no difference shown"]
    silent = [f"{one.method} ({one.verdict})" for one in witnesses if one.interval is None]
    unresolved = [one.method for one in witnesses if one.verdict == UNRESOLVED]
    lines = []
    camps = _camps(differ, alike)
    if len(witnesses) == 1:
        return ["One method alone: there is nothing to hold it against."]
    if differ and camps:
        lines += _say_camps(camps, differ, alike)
        if unresolved:
            lines.append(f"Not resolved: {_and([*unresolved])}.")
    elif differ:
        lines += ["Differ:", *_listed(_by_first(differ, _apart))]
        near = _by_first(alike, lambda one: f"{one.methods[1]} ({_within([one])})")
        lines += ["No difference shown:", *_listed(near)] if near else []
    elif alike:
        sure = [one for one in alike if not {*unresolved} & {*one.methods}]
        said = [_group(sure or alike)]
        if sure and len(sure) < len(alike):
            names = _and([one.method for one in witnesses if one.verdict == UNRESOLVED])
            rest = [one for one in alike if one not in sure]
            said.append(f"nor to {names}, not resolved ({_within(rest)})")
        text = f"No difference shown: {'; '.join(said)}."
        lines += textwrap.wrap(text, _WIDTH, subsequent_indent="  ")
    if silent:
        none = len(silent) == len(witnesses)
        what = "No method tells a layer" if none else "Nothing to hold against the others"
        text = f"{what}: {'; '.join(silent)}."
        lines += textwrap.wrap(text, _WIDTH, subsequent_indent="  ")
    return lines


def _camps(
    differ: Sequence[MethodDifference], alike: Sequence[MethodDifference]
) -> list[tuple[str, ...]]:
    """Methods that agree with each other and with none of the others; none if it is not so clear.

    Agreeing is not passed on: a method of a wide interval may differ from neither of two that do.
    """
    friends: dict[str, set[str]] = {}
    for one in (*differ, *alike):
        for name in one.methods:
            friends.setdefault(name, {name})
    for one in alike:
        for name in one.methods:
            friends[name] |= {*one.methods}
    if any(friends[name] != friends[other] for name in friends for other in friends[name]):
        return []
    sets = dict.fromkeys(frozenset(some) for some in friends.values())
    return [tuple(name for name in friends if name in some) for some in sets]


def _say_camps(
    camps: Sequence[tuple[str, ...]],
    differ: Sequence[MethodDifference],
    alike: Sequence[MethodDifference],
) -> list[str]:
    """Who agrees, and how far the camps are apart."""
    texts = []
    for camp in camps:
        inside = [one for one in alike if {*one.methods} <= {*camp}]
        if inside:
            texts.append(f"No difference shown: {_and(camp)} ({_within(inside)}).")
    for first, second in combinations(camps, 2):
        texts.append(f"Differ: {_between(first, second, differ)}.")
    wrapped = [textwrap.wrap(text, _WIDTH, subsequent_indent="  ") for text in texts]
    return [line for lines in wrapped for line in lines]


def _between(
    first: Sequence[str], second: Sequence[str], differ: Sequence[MethodDifference]
) -> str:
    """How far one camp's methods are from another's."""
    found = [
        (sign * low, sign * high)
        for one in differ
        for camps, sign in (((first, second), 1), ((second, first), -1))
        if one.interval and one.methods[0] in camps[0] and one.methods[1] in camps[1]
        for low, high in [one.interval]
    ]
    ends = [end for pair in found for end in pair]
    verdict = "later" if ends[0] > 0 else "earlier"
    near, far = sorted(map(abs, (min(ends), max(ends))))
    span = str(near) if near == far else f"{near} to {far}"
    unit = "layer" if far == 1 else "layers"
    tell = "is" if len(first) == 1 else "are"
    return f"{_and(first)} {tell} {span} {unit} {verdict} than {_and(second)}"


def _group(alike: Sequence[MethodDifference]) -> str:
    """All of some methods, of which no two are shown to differ."""
    names = list(dict.fromkeys(name for one in alike for name in one.methods))
    return f"{_and(names)} ({_within(alike)})"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _by_first(
    differences: Sequence[MethodDifference], say: Callable[[MethodDifference], str]
) -> dict[str, str]:
    """By the first method of each two, what is said of the others."""
    found: dict[str, list[str]] = {}
    for one in differences:
        found.setdefault(one.methods[0], []).append(say(one))
    return {name: "; ".join(parts) for name, parts in found.items()}


def _apart(one: MethodDifference) -> str:
    return str(one).removeprefix(f"{one.methods[0]} is ")


def _within(alike: Sequence[MethodDifference]) -> str:
    """How far those that are not shown to differ may be apart."""
    most = max(max(-low, high) for one in alike if one.interval for low, high in [one.interval])
    return f"within {most} layer{'s' * (most > 1)}" if most else "the same layer"


def _listed(texts: Mapping[str, str]) -> list[str]:
    return [
        line
        for name, text in texts.items()
        for line in textwrap.wrap(
            f"{name}: {text}", _WIDTH, initial_indent="  ", subsequent_indent="    "
        )
    ]
