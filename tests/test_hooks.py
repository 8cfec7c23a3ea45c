"""Which route masks a model, and models that none can mask."""

import planted
import pytest
import tiny
import torch
import transformers as hf
from transformer_lens.model_bridge.generalized_components import AttentionBridge

import icl_locate as icl
from icl_locate import Segment
from icl_locate.errors import ModelError
from icl_locate.hooks import Route, find_route, probe
from icl_locate.hooks.cells import CellTracker
from icl_locate.hooks.routes import MaskEdit, ScoresEdit
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.masks import resolve

SMALL = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "pad_token_id": 0, "bos_token_id": 1}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_route_is_found_by_trying(architecture):
    model = tiny.boot(architecture)
    discards = type(model.blocks[0].attn).forward is AttentionBridge.forward
    assert find_route(model) is (Route.MASK if discards else Route.SCORES)
    assert discards == (architecture in ("gpt_neo", "opt", "gptj"))


def test_attention_hooks_refuse_where_the_edit_is_discarded():
    model = tiny.boot("gpt_neo")
    prompts = icl.build_prompts(model, [icl.Example("sort", "dode")], n_shots=0)
    with pytest.raises(ModelError, match="discards edits.*icl_locate.mask_attention"):
        icl.attention_hooks(model, prompts, icl.ContextMask({Segment.QUERY}))


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 3), {"full": torch.zeros(1, 1, 3, 3)}])
def test_attention_that_is_given_no_mask_of_rows_and_keys_is_refused(mask):
    edit = MaskEdit(CellTracker(Positions(torch.full((1, 3), 4, dtype=torch.int8)), {}, 4), 2)
    with pytest.raises(ModelError, match="Identity of layer 2 was given no 4-D attention mask"):
        edit.edit_mask(torch.nn.Identity(), (torch.zeros(1, 3, 8),), {"attention_mask": mask})


@pytest.mark.parametrize("heads", [None, {(0, 1)}])
@pytest.mark.parametrize("padding", [0, 2])
def test_masks_of_numbers_and_of_booleans_are_edited_alike(heads, padding):
    """Row 0 sees nothing but what is hidden; rows of padding see nothing anyway."""
    segments = torch.tensor([[Segment.PAD] * padding + [2, 2, 3, 4, 4]], dtype=torch.int8)
    n = segments.shape[1]
    hide = icl.ContextMask({Segment.INSTRUCTIONS, Segment.EXAMPLES}, heads=heads)
    tracker = CellTracker(Positions(segments), resolve(hide, 1, 2), 2)
    free = torch.ones(n, n, dtype=torch.bool).tril() & (segments != Segment.PAD)[:, None, None]
    lowest = torch.finfo(torch.float32).min
    edited, empty = [], []
    for mask in (free, torch.zeros(1, 1, n, n).masked_fill(~free, lowest)):
        edit = MaskEdit(tracker, 0)
        states = {"hidden_states": torch.zeros(1, n, 8), "attention_mask": mask}
        _, given = edit.edit_mask(torch.nn.Identity(), (), states)
        edited.append(given["attention_mask"])
        empty.append(edit._empty)
    assert edited[0].dtype == torch.bool and edited[0].equal(edited[1] == 0)
    assert set(edited[1].unique().tolist()) == {0.0, lowest} and empty[0].equal(empty[1])
    hidden = torch.isin(segments[0], torch.tensor([2, 3], dtype=torch.int8)).expand(n, n)
    without = ~(free[0, 0] & ~hidden).any(-1) & (segments[0] != Segment.PAD)
    for head in range(edited[0].shape[1]):
        named = heads is None or (0, head) in heads
        shown = free[0, 0] & ~hidden if named else free[0, 0]
        keeps = without[:, None] & named  # such a row's output is zeroed instead
        assert edited[0][0, head].equal(torch.where(keeps, free[0, 0], shown))
        assert empty[0][0, head].equal(without & named)


def test_a_model_that_loses_its_causality_is_refused():
    """TransformerLens takes openai-gpt's mask as already causal: with any mask it sees ahead."""
    config = hf.OpenAIGPTConfig(
        vocab_size=tiny.VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4
    )
    torch.manual_seed(0)
    model = tiny.bridge(hf.OpenAIGPTLMHeadModel(config).eval())
    with pytest.raises(ModelError, match="later tokens acted on earlier ones"):
        find_route(model)


def with_a_side_door(amount, *, ahead=False):
    """A tiny Llama whose first MLP adds some of the other tokens' states to each token's."""
    model = tiny.boot_fresh("llama")

    def mix(mlp, args, output):
        states = args[0]
        others = states.sum(1, keepdim=True) if ahead else states.cumsum(1)
        return output + amount * others

    model.original_model.model.layers[0].mlp.register_forward_hook(mix)
    return model


@pytest.mark.parametrize(
    ("ahead", "message"),
    [
        (False, "hook_attn_scores: hidden tokens still acted.*attention_mask: hidden tokens still"),
        (True, "later tokens acted on earlier ones"),
    ],
)
def test_a_small_leak_is_refused_and_rounding_is_not(ahead, message):
    """An edit leaves 3 % of the hidden tokens' effect, or 0.1 %, as half precision would."""
    with pytest.raises(ModelError, match=message):
        find_route(with_a_side_door(0.01 if ahead else 0.1, ahead=ahead))
    find_route(with_a_side_door(0.0003 if ahead else 0.001, ahead=ahead))


@pytest.mark.parametrize(("factor", "agree"), [(1.0, True), (1.0001, True), (1.05, False)])
def test_routes_that_both_pass_must_agree(monkeypatch, factor, agree):
    edit = ScoresEdit.edit_scores

    def sharpened(self, scores, hook):
        return edit(self, factor * scores, hook)

    monkeypatch.setattr(ScoresEdit, "edit_scores", sharpened)
    model = tiny.boot_fresh("llama")
    if agree:
        assert find_route(model) is Route.SCORES
    else:
        with pytest.raises(ModelError, match="cannot be masked.*its two routes disagree"):
            find_route(model)


def test_a_route_is_tried_once_a_model(monkeypatch):
    model = tiny.boot_fresh("llama")
    assert find_route(model) is Route.SCORES
    assert find_route(model, per_head=True) is Route.SCORES
    monkeypatch.setattr(type(model), "forward", None)
    assert find_route(model, per_head=True) is Route.SCORES


def test_a_model_that_takes_no_mask_for_single_heads():
    config = hf.XGLMConfig(
        vocab_size=tiny.VOCABULARY, max_position_embeddings=64, d_model=32, ffn_dim=32,
        num_layers=2, attention_heads=4, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = tiny.bridge(hf.XGLMForCausalLM(config).eval())
    prompts = icl.build_prompts(model, [icl.Example("sort", "dode")], n_shots=0)
    with icl.mask_attention(model, prompts, icl.ContextMask({Segment.QUERY})):
        pass
    one_head = icl.ContextMask({Segment.QUERY}, heads={(0, 1)})
    with (
        pytest.raises(ModelError, match="cannot be masked head by head.*leave heads=None"),
        icl.mask_attention(model, prompts, one_head),
    ):
        pass


def test_hooks_to_hand_over_are_tried_on_single_heads_too(monkeypatch):
    model = tiny.boot_fresh("llama")
    prompts = icl.build_prompts(model, [icl.Example("sort", "dode")], n_shots=0)
    try_route = probe._try_route

    def try_all_heads_alone(model, route, heads=None):
        return try_route(model, route) if heads is None else "shapes do not fit"

    monkeypatch.setattr(probe, "_try_route", try_all_heads_alone)
    assert find_route(model) is Route.SCORES
    assert icl.attention_hooks(model, prompts, icl.ContextMask({Segment.QUERY}))
    one_head = icl.ContextMask({Segment.QUERY}, heads={(0, 1)})
    with pytest.raises(ModelError, match=r"head by head \(shapes do not fit\): leave heads=None"):
        icl.attention_hooks(model, prompts, one_head)


def test_a_model_whose_attention_does_nothing_is_refused():
    model = tiny.bridge(planted.attention_only_in(set(), n_layers=2))
    with pytest.raises(ModelError, match="cannot be masked.*nothing changed"):
        find_route(model)


def test_a_state_space_hybrid_is_refused():
    config = hf.JambaConfig(
        **SMALL,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=2,
        use_mamba_kernels=False,
        mamba_d_state=4,
        mamba_expand=1,
    )
    torch.manual_seed(0)
    model = tiny.bridge(hf.JambaForCausalLM(config).eval())
    with pytest.raises(ModelError, match="expected a decoder-only|cannot be masked"):
        find_route(model)


def test_an_encoder_decoder_is_refused():
    config = hf.T5Config(
        vocab_size=tiny.VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = tiny.bridge(hf.T5ForConditionalGeneration(config).eval())
    with pytest.raises(ModelError, match="decoder-only|cannot be masked"):
        find_route(model)
