"""The inference circuit of the embedded model: ``python docs/circuit_figures.py``.

Where classes are encoded, which heads copy and look for labels, and what cutting their edges costs.
Writes figures into a directory (docs/figures by default), and prints what docs/circuit.md says.
Takes two minutes.
"""

import sys
from pathlib import Path

import torch

import icl_locate as icl
from icl_locate import circuit, induction
from icl_locate.models.bridge import Model
from icl_locate.records.files import check_output
from icl_locate.report.page import write_png

GIVEN = {"n_shots": 8, "n_queries": 128, "seeds": (0, 1, 2)}
RANGES = (
    (0, 1), (1, 10), (2, 10), (0, 3), (2, 3), (3, 10), (3, 9), (5, 10), (6, 10), (9, 10),
)  # fmt: skip


def main(output: Path) -> None:
    """Run everything."""
    check_output(output)
    model, task = icl.load_model(device="cpu"), icl.load_task("f_a_f_p/4")
    _show(model, task)
    _encode(model, task)
    _read(model, task)
    _copy(model, task)
    assignment = _retrieve(model, task)
    view = _view(model, task)
    cuts = _cut(model, task)
    figures = {
        "assignment": icl.plots.measure_curves(assignment),
        "plane": icl.plots.query_key_plane(view),
        "cuts": icl.plots.cut_bars(cuts),
    }
    for name, figure in figures.items():
        width = 1100 if name == "cuts" else 720
        write_png(figure, output / f"circuit_{name}.png", width=width, height=540)


def _show(model: Model, task: icl.Task) -> None:
    """The prompt, its token types; from where on examples are not needed, and what they are for."""
    prompts = icl.build_prompts(
        model, task.test[:1], examples=task.train, n_shots=4, choice="balanced",
        template=task.template.without_instruction(),
    )  # fmt: skip
    print(model.tokenizer.convert_ids_to_tokens(prompts.tokens[0].tolist()), prompts.targets)
    types = circuit.token_types(prompts)
    print("x", types.x, "s", types.s, "y", types.y, "query", types.query_x, types.query_s)
    swept = icl.sweep(model, task, conditions="examples", metric="label_accuracy", **GIVEN)
    found = icl.locate(swept)[0]
    print(found, "| examples hidden everywhere", found.floor)


def _encode(model: Model, task: icl.Task) -> None:
    """Forerunner states' neighbours."""
    for at in "xs":
        _tell(circuit.kernel_alignment(model, task, at=at, null="v_v_b_i/4", **GIVEN), at)
    queries = task.test[: GIVEN["n_queries"]]
    labels = sorted({query.target for query in queries})
    classes = torch.tensor([labels.index(query.target) for query in queries])
    one_hot = torch.nn.functional.one_hot(classes).double()
    few = circuit.kernel_alignment(model, task, features=one_hot, **GIVEN | {"n_shots": 1})
    _tell(few, "s, one example")
    surprise = circuit.perplexity_alignment(model, task, **GIVEN)
    low, high = surprise.interval()[:, 5]
    print(f"perplexity, layer 5: {surprise.correlations[5]:.2f} [{low:.2f}, {high:.2f}]")
    aligned = surprise.alignments[5].mean(dim=0)
    for i, label in enumerate(labels):
        mine = aligned[classes == i]
        print(label, len(mine), f"{mine.min():.4f} to {mine.max():.4f}", 16 / (len(mine) - 1))
    alike = circuit.forerunner_similarity(model, task, n_queries=128, seeds=(0, 1, 2))
    print(alike.arms, alike.ks, alike.layer, alike.scores.mean(dim=-1).numpy().round(2))


def _read(model: Model, task: icl.Task) -> None:
    """Nearest class means."""
    _tell(circuit.centroid_probe(model, task, presets=None, **GIVEN))


def _copy(model: Model, task: icl.Task) -> None:
    """From forerunners into labels."""
    forerunner = circuit.forerunner_heads(model, task, **GIVEN)
    _tell_heads(forerunner, "right label", "random token", "wrong label")
    _tell(circuit.label_alignment(model, task, **GIVEN))


def _retrieve(model: Model, task: icl.Task) -> circuit.LayerMeasure:
    """From labels into the answer."""
    heads = circuit.induction_heads(model, task, **GIVEN)
    _tell_heads(heads, "induction", "random tokens")
    correct = _tell_heads(heads, "correct induction", "permuted classes")
    paid, more = (
        heads.scores[heads.arms.index(f"attention, {arm}")].mean(dim=-1)
        for arm in ("induction", "correct induction")
    )
    for layer in (0, 2, 9):  # where the best head's share is below chance
        print(layer, "attention to labels", paid[layer], "to right ones", (paid + more)[layer] / 2)
    scores = induction.head_scores(model).induction
    known = {tuple(place) for place in (scores >= 0.1).nonzero().tolist()}
    print("induction heads on random tokens", sorted(known), scores[scores >= 0.1])
    print("the same as correct in half of the prompts or more:", known == correct)
    print("greatest score of another head", scores[scores < 0.1].max())
    _tell(circuit.label_assignment(model, task, compat="cho2025", **GIVEN), "cho2025")
    assignment = circuit.label_assignment(model, task, **GIVEN)
    _tell(assignment)
    return assignment


def _view(model: Model, task: icl.Task) -> circuit.QueryKeyView:
    """How far along the query's direction each label lies."""
    view = circuit.query_key_view(model, task, n_queries=128)
    direction = view.query - view.zero
    along = (view.points - view.zero) @ direction / direction.norm()
    print(view, view.explained.sum())
    for label in dict.fromkeys(view.classes):
        print(label, along[[name == label for name in view.classes]])
    return view


def _cut(model: Model, task: icl.Task) -> circuit.Disconnections:
    """All edges by quarters, and by what ranges of layers it takes to say where they are needed."""
    cuts = circuit.disconnect(model, task, **GIVEN)
    ranges = circuit.disconnect(model, task, windows=RANGES, controls=0, **GIVEN)
    single = circuit.disconnect(
        model, task, edges=("s->y", "y->s_q"), windows="layers", controls=0, **GIVEN
    )
    columns = ["edge", "arm", "window", "score", "score_low", "score_high"]
    for found in (cuts, ranges, single):
        print(found.to_dataframe()[columns].round(2).to_string())
    beyond = cuts.beyond_control()
    low, high = beyond.interval()
    for edge, *rows in zip(cuts.edges, beyond.mean, low, high, strict=True):
        print("beyond random", edge, cuts.windows, *(row.round(2) for row in rows))
    return cuts


def _tell(found: circuit.LayerMeasure, *said: object) -> None:
    """Each arm over the layers, with its intervals."""
    print(found.metric, *said, "chance", found.chance[0, 0], found.provenance.get("ceiling"))
    low, high = found.score_interval()
    for i, arm in enumerate(found.arms):
        rows = found.scores[i].mean(dim=-1).tolist(), low[i].tolist(), high[i].tolist()
        cells = [f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in zip(*rows, strict=True)]
        print(f"  {arm}:", ", ".join(cells))


def _tell_heads(found: circuit.HeadMeasure, *arms: str, least: float = 0.5) -> set[tuple[int, int]]:
    """The heads whose first arm is beyond the second; those that count in half of the prompts."""
    means = [found.scores[found.arms.index(arm)].mean(dim=-1) for arm in arms]
    sure = [tuple(head) for head in found.heads_beyond(arms[1], arms[0])]
    print(" | ".join(arms))
    for head in sure:
        print(" ", head, *(f"{float(mean[head]):.2f}" for mean in means))
    return {head for head in sure if means[0][head] >= least}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "figures"))
