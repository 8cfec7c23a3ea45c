"""The shared engine against the hooks engine, its oracle: numbers, tokens, memory, refusals."""

import warnings
from dataclasses import replace

import pytest
import test_parity
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_laws import make_prompts, masks, prompts_strategy

import icl_locate as icl
from icl_locate import Segment
from icl_locate.engine import choice, readout
from icl_locate.engine.budget import Cost, run_in_chunks
from icl_locate.engine.choice import choose_engine
from icl_locate.engine.grid import run_grid
from icl_locate.engine.scoring import append_targets
from icl_locate.engine.shared.decoding import generate_many
from icl_locate.engine.shared.rows import Rows
from icl_locate.engine.shared.scoring import can_drop, plan_last, score_many
from icl_locate.errors import ModelError, NumericalError, PromptError
from icl_locate.metrics import METRICS
from icl_locate.models.costs import ModelCosts
from icl_locate.savings.memory import peak_bytes

STARTS = range(tiny.N_LAYERS + 1)
PAPER = [c.mask(icl.from_layer(start)) for c in icl.PAPER_CONDITIONS for start in STARTS]
MASKS = [*PAPER, *test_parity.MASKS.values()]
TASK = replace(icl.load_task("pseudo-translation"), metric="token_accuracy")


def prompts_for(model):
    prompts = icl.build_prompts(
        model,
        test_parity.QUERIES,
        examples=test_parity.EXAMPLES,
        n_shots=3,
        template=test_parity.TEMPLATE,
        seed=1,
    )
    assert not prompts.attention_mask.all()
    return prompts


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def model(request):
    return tiny.boot(request.param)


def test_log_probabilities_equal_the_hooks_engines(model):
    prompts = prompts_for(model)
    expected = torch.stack([icl.score_targets(model, prompts, mask) for mask in MASKS])
    for drop in {can_drop(model), False}:
        ours = score_many(model, prompts, MASKS, drop=drop)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    assert (expected - expected[STARTS[-1]]).abs().max() > 1e-2, "the masks must matter"


def test_answers_equal_the_hooks_engines(model):
    prompts = prompts_for(model)
    stop = ("A:", "e") if model in map(tiny.boot, ("gpt2", "mistral", "opt")) else ()
    expected = [icl.generate(model, prompts, mask, 8, stop) for mask in MASKS]
    for drop in {can_drop(model), False}:
        assert generate_many(model, prompts, MASKS, 8, stop, drop=drop) == expected
    n_texts = [len({answer[i] for answer in expected}) for i in range(len(prompts))]
    assert max(n_texts) < len(MASKS), "some texts must agree to the end"
    assert min(n_texts) > 1 or model is tiny.boot("bloom"), "and some must part"


def test_bfloat16_agrees_within_its_own_error(model):
    name = next(name for name in tiny.ARCHITECTURES if tiny.boot(name) is model)
    small = tiny.boot_fresh(name).to(torch.bfloat16)
    prompts = prompts_for(small)
    exact = torch.stack([icl.score_targets(model, prompts, mask) for mask in PAPER])
    hooked = torch.stack([icl.score_targets(small, prompts, mask) for mask in PAPER])
    ours = score_many(small, prompts, PAPER, drop=can_drop(small))
    assert (ours - exact).abs().max() <= 2 * (hooked - exact).abs().max() + 1e-2


@pytest.mark.parametrize("architecture", ["llama", "mistral", "bloom", "gpt2"])
@settings(max_examples=12)
@given(prompts=prompts_strategy(), chosen=st.lists(masks, min_size=1, max_size=4))
def test_law_10_both_engines_give_the_same(architecture, prompts, chosen):
    model = tiny.boot(architecture)
    chosen = [*chosen, chosen[0] | chosen[-1]]
    expected = torch.stack([icl.score_targets(model, prompts, mask) for mask in chosen])
    ours = score_many(model, prompts, chosen)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    words = icl.build_prompts(model, [icl.Example("sort", "x")] * len(prompts), n_shots=0)
    spoken = replace(prompts, template=words.template)
    answers = generate_many(model, spoken, chosen, 4, ())
    assert answers == [icl.generate(model, spoken, mask, 4, ()) for mask in chosen]


def test_only_few_rows_are_computed():
    segments = [1] + [2] * 4 + [3] * 40 + [4] * 5
    prompts = make_prompts([segments], torch.arange(50)[None] + 5)
    model, counts = tiny.boot("llama"), {}
    for condition in icl.PAPER_CONDITIONS[1:]:
        plan, _ = plan_last(model, prompts, [condition.mask(icl.from_layer(1))], drop=True)
        assert plan.places == (0,) and not plan.groups[0]
        (group,) = plan.groups[1]
        counts[condition.name] = (group.static.width, group.active.width)
    assert counts == {
        "instructions+examples": (1, 5),
        "examples, instructions kept": (5, 5),
        "query": (45, 1),
        "everything": (1, 1),
        "all but self": (0, 1),
    }


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_rows_take_what_was_chosen(chosen):
    chosen = torch.tensor(chosen)
    rows = Rows.where(chosen)
    values = torch.arange(chosen.numel()).view(chosen.shape)
    taken = rows.take(values)
    for i, row in enumerate(chosen):
        assert taken[i][rows.valid[i]].tolist() == values[i][row].tolist()


def test_sweeps_are_equal_whatever_the_engine_and_the_chunks():
    model = tiny.boot("llama")
    options = {"n_shots": 2, "n_queries": 5, "seeds": [0, 3], "max_new_tokens": 5}
    for metric in ("token_accuracy", "log_prob"):
        oracle = icl.sweep(model, TASK, engine="hooks", metric=metric, **options)
        assert oracle.provenance["engine"] == "hooks"
        for more in ({}, {"batch_size": 2}, {"token_budget": 3500}):
            ours = icl.sweep(model, TASK, engine="shared", metric=metric, **options, **more)
            assert ours.provenance["engine"] == "shared" and ours.texts == oracle.texts
            torch.testing.assert_close(ours.scores, oracle.scores, atol=1e-4, rtol=0)
        chosen = icl.sweep(model, TASK, engine="auto", metric=metric, **options)
        assert chosen.provenance["engine"] == "shared"


def test_a_budget_bounds_every_batch(monkeypatch):
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    cost = Cost.of(model, prompts, PAPER, 4)
    shared = {"engine": "shared", "max_new_tokens": 4, "batch_size": 9}
    sizes = []

    def generate_some(model, batch, *arguments, **options):
        sizes.append((len(batch), len(arguments[0])))
        return generate_many(model, batch, *arguments, **options)

    monkeypatch.setattr(readout, "generate_many", generate_some)
    for n_at_once in (1, 2):
        budget = (n_at_once + 1) * cost.total - 1
        run_grid(model, prompts, PAPER, METRICS["bleu"], token_budget=budget, **shared)
        assert max(size for size, _ in sizes) == n_at_once
        assert {n for _, n in sizes} == {len(PAPER)}
        sizes.clear()
    whole = run_grid(model, prompts, PAPER, METRICS["bleu"], **shared)
    sizes.clear()
    least = cost.base + max(cost.each)
    for budget in (cost.total - 1, least):  # then runs go in portions, too
        cells = run_grid(model, prompts, PAPER, METRICS["bleu"], token_budget=budget, **shared)
        assert [cell.texts for cell in cells] == [cell.texts for cell in whole]
        assert max(n for _, n in sizes) < len(PAPER) and (1 in {size for size, _ in sizes})
        sizes.clear()
    message = f"token_budget is {least - 1}, but one prompt with one run .* holds {least} tokens"
    with pytest.raises(PromptError, match=message):
        run_grid(model, prompts, PAPER, METRICS["bleu"], token_budget=least - 1, **shared)


@pytest.mark.parametrize("condition", icl.PAPER_CONDITIONS, ids=lambda c: c.name)
@pytest.mark.parametrize("architecture", ["llama", "gpt_neo"])
def test_a_token_in_flight_takes_little_more_memory_than_in_a_clean_run(architecture, condition):
    model = tiny.boot(architecture)
    prompts = prompts_for(model)
    masks = [condition.mask(icl.from_layer(start)) for start in STARTS]
    drop = can_drop(model)
    ours = {
        0: peak_bytes(lambda: score_many(model, prompts, masks, drop=drop)),
        8: peak_bytes(lambda: generate_many(model, prompts, masks, 8, (), drop=drop)),
    }
    forced = append_targets(prompts)
    clean = peak_bytes(lambda: icl.score_targets(model, prompts)) / forced.tokens.shape[1]
    promised = ModelCosts.of(model).token_bytes(prompts.tokens.shape[1])
    for n_new, peak in ours.items():
        each = peak / Cost.of(model, prompts, masks, n_new).total
        assert each <= 1.5 * clean and each / len(prompts) <= promised


def test_out_of_memory_halves_the_budget_and_goes_on():
    sizes, done = [], []

    def run(items):
        sizes.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("full")
        done.extend(items)

    run_in_chunks(8, cost=1, budget=100, batch_size=8, run=run)
    assert sizes == [8, 4, 2, 2, 2, 2] and done == list(range(8))

    def never(batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate"):
        run_in_chunks(8, cost=1, budget=100, batch_size=8, run=never)


@pytest.mark.parametrize("metric", ["log_prob", "exact_match", "label_accuracy"])
@pytest.mark.parametrize("engine", ["shared", "hooks"])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_progress_counts_every_cell(engine, metric, batch_size):
    """Step by step, although the shared engine runs all cells at once."""
    model, told = tiny.boot("llama"), []
    prompts = prompts_for(model)
    scored = METRICS[metric]
    if metric == "label_accuracy":
        scored = scored.bound_to([icl.Example("a", target) for target in ("zimo", "zimo zimo")])
    run_grid(
        model,
        prompts,
        PAPER,
        scored,
        engine=engine,
        max_new_tokens=4,
        batch_size=batch_size,
        on_progress=told.append,
    )
    assert sum(told) == len(PAPER) and min(told) > 0 and len(told) > 2


def test_the_shared_engine_is_chosen_on_every_architecture(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_engine(model, "auto") == "shared"


def test_hooks_on_the_model_are_never_dropped():
    model = tiny.boot("llama")
    name = "blocks.0.hook_out"
    with model.hooks(fwd_hooks=[(name, lambda value, hook: value * 0.5)]):
        with pytest.raises(ModelError, match="holds hooks of yours"):
            choose_engine(model, "shared")
        with pytest.warns(UserWarning, match="falling back to the hooks engine"):
            assert choose_engine(model, "auto") == "hooks"
    assert choose_engine(model, "auto") == "shared"


def test_disagreement_falls_back_and_says_so(monkeypatch):
    model = tiny.boot_fresh("llama")
    monkeypatch.setattr(choice, "score_many", lambda *a, **o: score_many(*a, **o) + 1.0)
    with pytest.warns(UserWarning, match="differs from the hooks engine by 1.0e"):
        assert choose_engine(model, "auto") == "hooks"
    with pytest.raises(ModelError, match="cannot run here: on this Llama.*use engine='hooks'"):
        choose_engine(model, "shared")


def test_bad_generation_arguments_are_refused_here_too():
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    for arguments, message in (((0,), "max_new_tokens is 0"), ((4, ("",)), "string is empty")):
        with pytest.raises(PromptError, match=message):
            generate_many(model, prompts, PAPER, *arguments)


def test_training_mode_and_nan_are_refused():
    model = tiny.boot_fresh("llama")
    model.train()
    with pytest.raises(ModelError, match="call model.eval"):
        choose_engine(model, "auto")
    model.eval()
    with torch.no_grad():
        model.blocks[1].mlp.out.original_component.weight[0, 0] = torch.nan
    prompts = prompts_for(model)
    for run in (score_many, generate_many):
        with pytest.raises(NumericalError, match="NaN"):
            run(model, prompts, PAPER)


def test_the_model_is_left_as_it_was(model):
    prompts = prompts_for(model)
    with torch.no_grad():
        clean = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
    score_many(model, prompts, PAPER, drop=can_drop(model))
    assert not any("forward" in block.__dict__ for block in model.blocks)
    with torch.no_grad():
        again = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
    assert again.equal(clean)


def test_gradients_are_off_and_stay_as_they_were():
    model = tiny.boot("llama")
    assert torch.is_grad_enabled()
    assert not score_many(model, prompts_for(model), PAPER).requires_grad
    assert torch.is_grad_enabled()


def test_nothing_to_mask_is_the_clean_run():
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    nothing = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(tiny.N_LAYERS))
    clean = icl.score_targets(model, prompts)
    torch.testing.assert_close(score_many(model, prompts, [nothing])[0], clean, atol=1e-5, rtol=0)
    assert generate_many(model, prompts, [nothing], 4) == [icl.generate(model, prompts, None, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_engine(model, "hooks") == "hooks"
