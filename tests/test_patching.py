"""One task's vector against another's demonstrations, and states put in at many positions."""

from dataclasses import replace

import numpy as np
import planted
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate.errors import MaskError, ResultError, TaskError
from icl_locate.vectors import Override, Patched, override_study, patch_states

TASK = icl.load_task("pseudo-translation")
OTHER = icl.load_task("pseudo-translation/Novel")
SMALL = {"n_shots": 2, "n_queries": 3, "seeds": [0, 3], "metric": "first_token_prob"}
TARGETS = {example.source: example.target for example in OTHER.train}
BARE = TASK.template.without_instruction()
TEST = replace(TASK, test=TASK.test[:3])
LONGER = replace(OTHER, train=tuple(icl.Example(e.source, f"{e.target} rafa") for e in OTHER.train))


def first_prob(model, prompts, target_tokens):
    """The probability of each target's first token, one prompt at a time."""
    found = []
    for i, (row, mask) in enumerate(zip(prompts.tokens, prompts.attention_mask, strict=True)):
        with torch.no_grad():
            logits = model(row[mask][None])
        logits = logits if isinstance(logits, torch.Tensor) else logits.logits
        found.append(logits[0, -1].double().softmax(dim=-1)[target_tokens[i][0]])
    return torch.stack(found)


def shown(model, seed, queries=TEST.test, shots=None):
    """The prompts of a seed, as anybody builds them."""
    given = {"examples": TASK.train} if shots is None else {"shots": shots}
    return icl.build_prompts(model, queries, n_shots=2, template=BARE, seed=seed, **given)


def taken(model, prompts):
    """The same prompts with the other language's words in their examples."""
    shots = [[icl.Example(s, TARGETS[s]) for s, _ in examples_of(text)] for text in prompts.texts]
    return shown(model, 0, shots=shots)


def examples_of(text):
    """A prompt's sources and targets."""
    return [line[2:].split("A:") for line in text.split("\n")[:-1]]


# Many positions.


@pytest.fixture(scope="module")
def patched():
    return patch_states(tiny.boot("llama"), TEST, OTHER, **SMALL)


def spots(text, tokenizer):
    """Where a prompt's targets end, and where it does; counted in its own tokens."""
    lines = text.split("\n")
    beginnings = ["\n".join(lines[:i]) for i in range(1, len(lines))]
    ends = [len(tokenizer(beginning)["input_ids"]) - 1 for beginning in beginnings]
    return {"all outputs": ends, "one output": ends[-1:], "last token": [-1]}


def by_hand(model, tokenizer, given, into, layer, place):
    """The next token's distribution with one layer's states put in, by hooks of torch."""
    ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in (given, into)]
    places = [spots(text, tokenizer)[place] for text in (given, into)]
    kept = {}

    def read(module, inputs, output):
        kept["states"] = (output[0] if isinstance(output, tuple) else output)[0, places[0]].clone()

    def write(module, inputs, output):
        (output[0] if isinstance(output, tuple) else output)[0, places[1]] = kept["states"]

    block = model.model.layers[layer]
    for tokens, act in zip(ids, (read, write), strict=True):
        handle = block.register_forward_hook(act)
        with torch.no_grad():
            logits = model(tokens).logits[0, -1]
        handle.remove()
    return logits.double().softmax(dim=-1)


def test_scores_are_those_of_a_plain_loop(patched):
    bridge, model = tiny.boot("llama"), tiny.build("llama")
    for s, seed in enumerate(patched.seeds):
        given = shown(bridge, seed)
        into = taken(bridge, given)
        wanted = [tokens[0] for tokens in given.target_tokens]
        for arm in ("all outputs", "one output", "last token"):
            cells = patched.statistics[:-2].unflatten(0, (9, 3))[
                patched.arms.index(arm), :, s, :, 0
            ]
            for layer in range(tiny.N_LAYERS):
                for item, texts in enumerate(zip(given.texts, into.texts, strict=True)):
                    probs = by_hand(model, bridge.tokenizer, *texts, layer, arm)
                    assert float(cells[layer, item]) == pytest.approx(
                        float(probs[wanted[item]]), abs=1e-5
                    )
        for row, prompts in ((-1, into), (-2, given)):
            probs = first_prob(model, prompts, given.target_tokens)
            assert torch.allclose(patched.statistics[row, s, :, 0], probs, atol=1e-5)


@pytest.mark.parametrize("layer", [1, 3])
def test_a_planted_task_moves_with_the_examples_until_it_is_read(layer):
    """Then it moves with the last token: at no layer do both carry it."""
    model = tiny.bridge(planted.attention_only_in({layer}))
    places = {"examples": "examples", "last": "last", "one": icl.At("examples", which="last")}
    found = patch_states(model, TEST, OTHER, places=places, controls=(), **SMALL)
    table = found.statistics[:-2].unflatten(0, (3, model.cfg.n_layers))
    donor, unpatched = found.statistics[-2], found.statistics[-1]
    assert not torch.allclose(unpatched, donor, atol=1e-5)
    for wanted, arms in ((donor, (table[0, :layer], table[1, layer:])),
                         (unpatched, (table[0, layer:], table[1, :layer]))):  # fmt: skip
        for cells in arms:
            torch.testing.assert_close(cells, wanted.expand_as(cells), atol=1e-6, rtol=0)
    assert not torch.allclose(table[2, :layer], donor.expand_as(table[2, :layer]), atol=1e-5)


def test_arms_and_their_controls(patched):
    names = ("all outputs", "one output", "last token")
    assert patched.arms == tuple(
        f"{n}{end}" for n in names for end in ("", ": random", ": shuffled")
    )
    assert patched.scores.shape == (9, 3, 2)
    assert len({tuple(table.flatten().tolist()) for table in patched.scores}) == 9
    way = patched.ceiling.mean() - patched.floor.mean()
    share = (patched.scores.mean(-1) - patched.floor.mean()) / way
    assert torch.allclose(patched.transferred, share)
    same = replace(patched, ceiling=patched.floor)
    assert same.transferred.isnan().all()
    apart = patched.difference("all outputs", "one output")
    means = (patched.scores[0] - patched.scores[3]).mean(dim=-1).numpy()
    assert np.allclose(apart.mean, means) and apart.interval().shape == (2, 3)
    for name, arms in (("arm", ("some", "one output")), ("other", ("one output", "some"))):
        with pytest.raises(ResultError, match=f"^{name} is 'some': expected one of 'all outputs'"):
            patched.difference(*arms)


def test_labels_of_the_task_itself_may_be_dealt_out_anew():
    model = tiny.boot("llama")
    colours = [
        icl.Example(e.source, ("rafa", "begu")[i % 2]) for i, e in enumerate(TASK.train[:30])
    ]
    task = icl.Task("colours", tuple(colours[:20]), tuple(colours[20:23]), BARE, choice="balanced")
    found = patch_states(model, task, controls=["random"], **SMALL)
    assert found.provenance["other"] is None and len(found.arms) == 6
    for s, seed in enumerate(found.seeds):
        prompts = icl.build_prompts(
            model, task.test, examples=task.train, n_shots=2, seed=seed, template=BARE,
            choice="balanced",
        )  # fmt: skip
        other = {"rafa": "begu", "begu": "rafa"}
        swapped = [
            [icl.Example(source, other[target]) for source, target in examples_of(text)]
            for text in prompts.texts
        ]
        into = shown(model, 0, queries=task.test, shots=swapped)
        for row, some in ((-1, into), (-2, prompts)):
            probs = first_prob(model, some, prompts.target_tokens)
            assert torch.allclose(found.statistics[row, s, :, 0], probs, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"places": {}}, TaskError, "^places is"),
        ({"places": {"x": "end"}}, MaskError, "^at is 'end'"),
        ({"places": {"x": "instructions"}}, MaskError, "has no token at"),
        ({"controls": ["other task"]}, TaskError, "^controls is 'other task': expected one of"),
        ({"layers": 3}, MaskError, "^layers holds 3: expected layers from 0 to 2"),
        ({"n_shots": 0}, TaskError, "^n_shots is 0"),
        ({"metric": "exact_match", "max_new_tokens": 3}, TaskError, "^the model answers none of 3"),
        (
            {"other": LONGER, "places": {"x": "examples"}},
            MaskError,
            "^the place 'x' has .* positions in prompt 0 of the task, and .* in that which takes",
        ),
    ],
)
def test_what_cannot_be_patched(changed, error, message):
    options = {"other": OTHER, **SMALL, **changed}
    with pytest.raises(error, match=message):
        patch_states(tiny.boot("llama"), TEST, **options)


def test_tasks_without_a_common_source():
    apart = replace(
        OTHER, train=tuple(icl.Example(f"{e.source} one", e.target) for e in OTHER.train)
    )
    with pytest.raises(TaskError, match="have no example of the same source"):
        patch_states(tiny.boot("llama"), TEST, apart, **SMALL)


# One task's vector, another's demonstrations.


@pytest.fixture(scope="module")
def overridden():
    return override_study(tiny.boot("llama"), TASK, OTHER, **SMALL)


def test_both_answers_are_read_off_the_same_prompts(overridden):
    model = tiny.boot("llama")
    answers = {e.source: e.target for e in OTHER.test}
    both = [(e, icl.Example(e.source, answers[e.source])) for e in TASK.test if e.source in answers]
    both = [(a, b) for a, b in both if a.target.split()[0] != b.target.split()[0]][:3]
    contexts = overridden.provenance["contexts"]
    for s, seed in enumerate(overridden.seeds):
        given = shown(model, seed, queries=[a for a, _ in both])
        others = shown(model, seed, queries=[b for _, b in both])
        assert given.tokens.equal(others.tokens) and given.target_tokens != others.target_tokens
        shots = tuple(icl.Example(*shot.split(" -> ")) for shot in contexts[s]["shots"])
        dummies = [icl.Example(source, "x") for source in contexts[s]["dummies"]]
        read = shown(model, 0, queries=dummies, shots=[shots] * 2)
        vectors = icl.states(model, read)[:, :, 0].mean(dim=1)
        for answer, prompts in enumerate((given, others)):
            first = replace(prompts, target_tokens=[t[:1] for t in prompts.target_tokens])
            for layer in range(tiny.N_LAYERS):
                edit = icl.StateEdit("replace", vectors[layer], layer)
                probs = icl.score_targets(model, first, edit).exp().double()
                cells = overridden.statistics[answer * tiny.N_LAYERS + layer, s, :, 0]
                assert torch.allclose(cells, probs, atol=1e-6)
            alone = icl.score_targets(model, first).exp().double()
            assert torch.allclose(overridden.statistics[6 + answer, s, :, 0], alone, atol=1e-6)


@pytest.mark.parametrize("layer", [1, 3])
def test_a_planted_vector_wins_from_its_layer_on(layer):
    model = tiny.bridge(planted.attention_only_in({layer}))
    found = override_study(model, TASK, OTHER, n_dummies=1, **SMALL)
    n_layers = model.cfg.n_layers
    table = found.statistics[:-2].unflatten(0, (2, n_layers))
    below = found.statistics[-2:, None].expand_as(table[:, :layer])
    torch.testing.assert_close(table[:, :layer], below, atol=1e-6, rtol=0)
    first = table[:, layer : layer + 1].expand_as(table[:, layer:])
    torch.testing.assert_close(table[:, layer:], first, atol=1e-6, rtol=0)
    assert not torch.allclose(table[:, layer], found.statistics[-2:], atol=1e-4)


def test_which_answer_wins(overridden):
    frame = overridden.to_dataframe()
    assert frame.layer.tolist() == [0, 1, 2]
    gap = (overridden.scores[1] - overridden.scores[0]).mean(dim=-1)
    assert np.allclose(frame.advantage, gap) and (frame.low <= frame.high).all()
    statistics = overridden.statistics.clone()
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.rand(statistics.shape[:-1], generator=generator, dtype=torch.float64)
    for cell, level in enumerate((0.9, 0.1, 0.5, 0.1, 0.9, 0.5, 0.9, 0.1)):
        statistics[cell, ..., 0] = level + noise[cell]
    scores = statistics[..., 0].mean(dim=-1)
    clear = replace(overridden, statistics=statistics, scores=scores[:6].view(2, 3, 2))
    assert clear.to_dataframe().wins.tolist()[:2] == ["task", "other"]


def test_files_hold_both(overridden, patched, tmp_path):
    for kind, value in ((Override, overridden), (Patched, patched)):
        again = kind.load(value.save(tmp_path / kind.__name__))
        assert again.statistics.equal(value.statistics) and again.scores.equal(value.scores)
        assert again.axes == value.axes and again.to_xarray().equals(value.to_xarray())


def test_tasks_whose_answers_begin_alike_do_not_conflict():
    with pytest.raises(TaskError, match="have 0 queries of the same source whose answers begin"):
        override_study(tiny.boot("llama"), TASK, TASK, **SMALL)
    with pytest.raises(TaskError, match="^other: unknown task 'nope'"):
        override_study(tiny.boot("llama"), TASK, "nope", **SMALL)
    with pytest.raises(TaskError, match="expected 5000"):
        override_study(tiny.boot("llama"), TASK, OTHER, **SMALL | {"n_queries": 5000})


# The embedded model.


def test_many_positions_carry_a_language_that_one_does_not():
    """Those of the query, in the middle of the model."""
    places = {"query": "query", "one": icl.At("examples", "target", which="last")}
    found = patch_states(
        icl.load_model(), TASK, "pseudo-translation/Zipura", places=places, layers=[4, 9],
        n_queries=12, seeds=[0, 1], metric="token_accuracy", max_new_tokens=10,
    )  # fmt: skip
    shares = dict(zip(found.arms, found.transferred.tolist(), strict=True))
    assert shares["query"][0] > 0.35 and abs(shares["one"][0]) < 0.05, "while it is read"
    assert shares["query"][1] < 0.3, "when the query has been read"
    for other in ("one", "query: random"):
        assert found.difference("query", other).interval()[0, 0] > 0.2, other


def test_a_languages_vector_overrides_demonstrations_of_another():
    found = override_study(
        icl.load_model(), TASK, "pseudo-translation/Zipura", n_queries=16, seeds=[0, 1],
        n_dummies=8,
    )  # fmt: skip
    frame = found.to_dataframe().set_index("layer")
    assert found.task_alone.mean() > 0.9 and found.other_alone.mean() < 0.1
    assert (frame.wins[3:9] == "other").all() and frame.other[6:9].min() > 0.4
    assert frame.other[0] < 0.1
