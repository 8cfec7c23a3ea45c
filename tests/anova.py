"""An independent account of intervals: analysis of variance by plain loops, over items and seeds.

It shares no code with the package. Each function takes one cell: its scores by seed, and what each
item adds to them by seed and item, as `jackknife` gives it.
"""

import math

from scipy.special import betaincinv


def jackknife(score, rows):
    """A score by seed, and what each item adds: the score without it, by loops.

    Args:
        score: of a list of items' rows.
        rows: [seed][item], of any kind.
    """
    scores, adds = [], []
    for items in rows:
        whole = score(list(items))
        n = len(items)
        without = [score([row for j, row in enumerate(items) if j != i]) for i in range(n)]
        lost = [(n - 1) * (whole - other) for other in without]
        middle = sum(lost) / n
        scores.append(whole)
        adds.append([each - middle for each in lost])
    return scores, adds


def of_mean(values):
    """The same of a mean: what an item adds is its value minus the mean."""
    scores = [float(sum(items)) / len(items) for items in values]
    adds = [
        [float(each) - score for each in items] for items, score in zip(values, scores, strict=True)
    ]
    return scores, adds


def products(one, other):
    """Mean products of two cells over items, seeds, and what is left, item by seed."""
    (scores_a, adds_a), (scores_b, adds_b) = one, other
    n_seeds, n_items = len(adds_a), len(adds_a[0])
    middle_a = [sum(adds_a[s][i] for s in range(n_seeds)) / n_seeds for i in range(n_items)]
    middle_b = [sum(adds_b[s][i] for s in range(n_seeds)) / n_seeds for i in range(n_items)]
    items = sum(a * b for a, b in zip(middle_a, middle_b, strict=True))
    items *= n_seeds / (n_items - 1)
    if n_seeds == 1:
        return items, 0.0, 0.0
    mean_a, mean_b = sum(scores_a) / n_seeds, sum(scores_b) / n_seeds
    seeds = sum((a - mean_a) * (b - mean_b) for a, b in zip(scores_a, scores_b, strict=True))
    seeds *= n_items / (n_seeds - 1)
    rest = 0.0
    for s in range(n_seeds):
        for i in range(n_items):
            rest += (adds_a[s][i] - middle_a[i]) * (adds_b[s][i] - middle_b[i])
    return items, seeds, rest / ((n_items - 1) * (n_seeds - 1))


def variance(cell, beside=()):
    """Of the mean over seeds, and the sum of its parts' squares by their degrees of freedom.

    Args:
        beside: the cells that were measured with it, itself among them. Of two seeds, theirs count
            for two degrees of freedom more.
    """
    items, seeds, rest = (part / (len(cell[1]) * len(cell[1][0])) for part in products(cell, cell))
    n_seeds, n_items = len(cell[1]), len(cell[1][0])
    value, doubt = items, items**2 / (n_items - 1)
    if n_seeds > 1:
        df = n_seeds - 1
        if n_seeds == 2 and len(beside) > 1:
            together = [products(each, each) for each in beside]
            times = sum(s for _, s, _ in together) / sum(r for _, _, r in together)
            seeds, df = (seeds + 2 * times * rest) / 3, 3
        value += max(0.0, seeds - rest)
        doubt += seeds**2 / df + rest**2 / ((n_items - 1) * (n_seeds - 1))
    return value, doubt


def quantile(df, confidence):
    """How many standard errors Student's interval reaches to each side."""
    x = float(betaincinv(df / 2, 0.5, 1 - confidence))
    return math.sqrt(df * (1 / x - 1))


def around(mean, value, doubt, confidence=0.95):
    """Student's interval around a mean: low and high."""
    if value == 0:
        return mean, mean
    half = quantile(max(1.0, value**2 / doubt), confidence) * math.sqrt(value)
    return mean - half, mean + half


def interval(cell, confidence=0.95, beside=()):
    """Of the mean over seeds: low and high."""
    return around(sum(cell[0]) / len(cell[0]), *variance(cell, beside), confidence)


def contrast(cells, weights):
    """A weighted sum of cells, item by item and seed by seed."""
    n_seeds, n_items = len(cells[0][1]), len(cells[0][1][0])
    pairs = list(zip(cells, weights, strict=True))
    scores = [sum(w * cell[0][s] for cell, w in pairs) for s in range(n_seeds)]
    adds = [
        [sum(w * cell[1][s][i] for cell, w in pairs) for i in range(n_items)]
        for s in range(n_seeds)
    ]
    return scores, adds


def over_drawn(cells, minus=None, confidence=0.95):
    """Of the mean over cells that were drawn from more, or of that minus a cell: low and high."""
    n = len(cells)
    middle = contrast(cells, [1 / n] * n)
    found = middle if minus is None else contrast([middle, minus], [1, -1])
    value, doubt = variance(found)
    if n > 1:
        between = noise = doubts = 0.0
        for k in range(n):
            apart = contrast(cells, [(j == k) - 1 / n for j in range(n)])
            own, more = variance(apart)
            between += (sum(apart[0]) / len(apart[0])) ** 2 / (n - 1)
            noise, doubts = noise + own / (n - 1), doubts + more / (n - 1) ** 2
        value += max(0.0, between - noise) / n
        doubt += (between**2 / (n - 1) + doubts) / n**2
    return around(sum(found[0]) / len(found[0]), value, doubt, confidence)
