"""What a token costs: operations against a profiler, memory against a count of living tensors."""

from functools import cache
from types import SimpleNamespace

import pytest
import tiny
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import DynamicCache

import icl_locate as icl
from icl_locate.engine import budget, choice, grid
from icl_locate.engine.shared import decoding as shared_decoding
from icl_locate.errors import ModelError
from icl_locate.masking.estimate import estimate_sweep
from icl_locate.models.costs import ModelCosts
from icl_locate.savings.memory import peak_bytes

WORDS = ("dode", "zimo", "rovu", "sort", "thin", "zero", "reverse")
BANK = [icl.Example(a, b) for a in WORDS for b in WORDS if a != b]
TEMPLATE = icl.PromptTemplate("Translate English to French:")
TASK = icl.Task("words", tuple(BANK[:30]), tuple(BANK[30:]), TEMPLATE)
SIZES = {"n_shots": 1, "n_queries": 3}
CONDITIONS = icl.PAPER_CONDITIONS[:3]
FAMILIES = ("llama", "gpt2", "falcon")
_SHAPE = {
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "hidden_size": 128,
    "vocab_size": tiny.VOCABULARY,
}


@cache
def boot(family):
    """Wide enough that nothing but what the formulas name takes memory; always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return bridge(build(family))


def build(family):
    if family == "gpt2":
        config = hf.GPT2Config(n_embd=128, n_layer=3, n_head=8, vocab_size=tiny.VOCABULARY)
        return hf.GPT2LMHeadModel(config)
    if family == "falcon":
        config = hf.FalconConfig(
            **_SHAPE, alibi=False, multi_query=True, new_decoder_architecture=False
        )
        return hf.FalconForCausalLM(config)
    shape = _SHAPE | {"intermediate_size": 256, "num_key_value_heads": 2}
    if family == "mixtral":
        config = hf.MixtralConfig(**shape, num_local_experts=4, num_experts_per_tok=2)
        return hf.MixtralForCausalLM(config)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**shape))


def bridge(plain):
    plain.config.pad_token_id, plain.config.bos_token_id, plain.config.eos_token_id = 0, 1, 2
    booted = tiny.bridge(plain)
    booted.tokenizer.eos_token = booted.tokenizer.pad_token  # no answer ends early
    booted.original_model.generation_config.eos_token_id = None
    return booted


def operations(model, engine, metric, n_new, **sizes):
    """What a sweep's engine really multiplies."""
    choice.choose_engine(model, "shared")  # its first look at a model is no part of it
    with FlopCounterMode(display=False) as counter:
        icl.sweep(
            model, TASK, conditions=CONDITIONS, engine=engine, metric=metric, seeds=[0],
            max_new_tokens=n_new, **SIZES | sizes,
        )  # fmt: skip
    return counter.get_total_flops()


def estimated(model, engine, n_new, **sizes):
    return estimate_sweep(
        model.tokenizer, ModelCosts.of(model), TASK, CONDITIONS, engine=engine, n_seeds=1,
        max_new_tokens=n_new or 1, generates=bool(n_new), **SIZES | sizes
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["shared", "hooks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_estimate_of_scores_is_a_profilers_count(family, engine):
    model = boot(family)
    found = estimated(model, engine, 0)
    assert found.operations == operations(model, engine, "log_prob", 1)
    some = estimated(model, engine, 0, layers=[1])
    assert some.operations == operations(model, engine, "log_prob", 1, layers=[1])
    assert (some.n_cells, found.n_cells) == (3 * len(CONDITIONS), 4 * len(CONDITIONS))


@pytest.mark.parametrize("engine", ["shared", "hooks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_estimate_of_answers_bounds_a_profilers_count(family, engine):
    model = boot(family)
    found, real = estimated(model, engine, 6).operations, operations(model, engine, "bleu", 6)
    assert 0.8 * found < real <= found


def test_a_narrow_models_masks_run_in_portions_each_with_a_clean_pass(monkeypatch):
    model, begun = bridge(tiny.build("llama")), []
    found = estimated(model, "shared", 6, n_shots=15).operations

    run = shared_decoding._generate

    def count(*given, **options):
        begun.append(given)
        return run(*given, **options)

    monkeypatch.setattr(shared_decoding, "_generate", count)
    real = operations(model, "shared", "bleu", 6, n_shots=15)
    assert len(begun) > 2, "one for the prompts without instruction, several for the others"
    assert 0.8 * found < real <= found


def test_an_estimate_extrapolates_from_its_sample():
    model, costs = boot("llama"), ModelCosts.of(boot("llama"))
    given = model.tokenizer, costs, TASK, icl.PAPER_CONDITIONS
    some, one = (
        estimate_sweep(*given, n_queries=n, n_seeds=seeds, generates=False)
        for n, seeds in ((12, 3), (12, 1))
    )
    assert some.operations == 3 * one.operations and some.token_layers == 3 * one.token_layers
    assert some.prompt_tokens == one.prompt_tokens and some.n_prompts == 3 * one.n_prompts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_tokens", [16, 256])
@pytest.mark.parametrize("family", [*FAMILIES, "mixtral"])
def test_a_tokens_bytes_are_a_forward_passes_or_a_few_times_that(family, n_tokens, dtype):
    model = boot(family)
    tokens = torch.randint(3, 400, (2, n_tokens), generator=torch.Generator().manual_seed(0))
    options = {"attention_mask": torch.ones_like(tokens), "use_cache": True, "logits_to_keep": 1}
    inner = model.original_model.to(dtype)
    try:
        with torch.no_grad():
            peak = peak_bytes(lambda: model(tokens, past_key_values=DynamicCache(), **options))
    finally:
        inner.to(torch.float32)
    promised = ModelCosts.of(model, at_most=True).token_bytes(n_tokens, dtype)
    assert 1 <= promised / (peak / tokens.numel()) <= 4


def test_grouped_heads_take_less():
    costs = {
        n: ModelCosts.of(hf.LlamaConfig(**_SHAPE, intermediate_size=256, num_key_value_heads=n))
        for n in (1, 8)
    }
    saved = costs[8].token_bytes(10) - costs[1].token_bytes(10)
    assert saved == 2 * 3 * (costs[8].cache_bytes(1) - costs[1].cache_bytes(1)) > 0


def test_a_mixture_of_experts_gets_bounds_and_budgets(monkeypatch):
    model = boot("mixtral")
    with pytest.raises(ModelError, match="several experts.*at_most=True"):
        ModelCosts.of(model)
    costs = ModelCosts.of(model, at_most=True)
    router, attention = 4 * 128, 128 * (128 + 32 + 32 + 128)
    assert (
        costs.has_experts and costs.layer_weights == (router + attention + 2 * 3 * 128 * 256,) * 3
    )
    assert costs.widest == 2 * 2 * 256, "of two experts: what opens the gate, and what passes it"
    seen = []
    budget = grid.default_budget
    monkeypatch.setattr(grid, "default_budget", lambda *a: seen.append(budget(*a)) or seen[0])
    grid.run_grid(
        model, prompts_of(model), [icl.ContextMask({icl.Segment.EXAMPLES}, icl.from_layer(3))],
        icl.metrics.get_metric("log_prob"), engine="shared", max_new_tokens=2, batch_size=2,
    )  # fmt: skip
    assert seen[0] > 1000


def prompts_of(model):
    return icl.build_prompts(model, TASK.test[:2], examples=TASK.train, n_shots=1)


def test_a_loaded_bridge_is_looked_at_once_and_no_file_is(monkeypatch):
    model = tiny.boot_fresh("llama")
    state = torch.get_rng_state()

    def refuse(*args, **kwargs):
        raise AssertionError(f"a file is asked for: {args}")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    costs = ModelCosts.of(model)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"
    monkeypatch.setattr("icl_locate.models.costs._build_empty", refuse)
    assert ModelCosts.of(model) is ModelCosts.of(model, at_most=True) is costs


def test_sizes_that_cannot_be_told_leave_a_budget_of_one_prompt(monkeypatch):
    model, empty = tiny.boot_fresh("llama"), tiny.build("llama")
    config = SimpleNamespace(num_hidden_layers=3, num_attention_heads=[4, 4, 2])
    empty.config = SimpleNamespace(get_text_config=lambda decoder: config)
    monkeypatch.setattr("icl_locate.models.costs._build_empty", lambda *_: ("odd", empty))
    with pytest.raises(ModelError, match=r"num_attention_heads of odd is \[4, 4, 2\]: expected"):
        ModelCosts.of(model)
    with pytest.warns(UserWarning, match="prompts run one by one"):
        assert budget.default_budget(model, prompts_of(model), 123) == 123
