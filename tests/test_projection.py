"""What single heads write, against the weights of the plain Hugging Face model."""

import oracle
import pytest
import tiny
import torch
import transformers as hf
from transformers.pytorch_utils import Conv1D

import icl_locate as icl
from icl_locate.errors import ModelError
from icl_locate.hooks import watch_attention
from icl_locate.models.projection import project_heads

TOKENS = torch.tensor([[1, 5, 9, 7, 6]])


def weights_of(plain: hf.PreTrainedModel, layer: int) -> torch.Tensor:
    """The output projection as a matrix [head, d_head, d_model]."""
    children = dict(oracle.attention_modules(plain)[layer].named_children())
    module = next(children[name] for name in oracle.PROJECTIONS if name in children)
    matrix = module.weight if isinstance(module, Conv1D) else module.weight.T
    return matrix.detach().reshape(tiny.N_HEADS, -1, matrix.shape[1])


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_heads_write_by_the_weights_without_the_bias(architecture):
    model, plain = tiny.boot(architecture), tiny.build(architecture)
    for layer in range(tiny.N_LAYERS):
        matrix = weights_of(plain, layer)
        z = torch.randn(3, matrix.shape[1], generator=torch.Generator().manual_seed(layer))
        written = project_heads(model, layer, [2, 0, 2], z)
        expected = torch.stack([row @ matrix[head] for row, head in zip(z, [2, 0, 2], strict=True)])
        torch.testing.assert_close(written, expected, rtol=1e-6, atol=1e-6)


def wide_heads() -> hf.PreTrainedModel:
    """A Llama whose heads are wider than their share of the stream."""
    return hf.LlamaForCausalLM(hf.LlamaConfig(**tiny._GATED, head_dim=12))


def latent_heads() -> hf.PreTrainedModel:
    """DeepSeek's latent attention, whose values are narrower than its queries."""
    config = hf.DeepseekV2Config(
        **(tiny._GATED | {"num_key_value_heads": 4}), kv_lora_rank=8, q_lora_rank=None,
        qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6, first_k_dense_replace=3,
        n_routed_experts=2, moe_intermediate_size=16, n_shared_experts=1, num_experts_per_tok=1,
        topk_group=1, n_group=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return hf.DeepseekV2ForCausalLM(config)


@pytest.mark.parametrize(("build", "width"), [(wide_heads, 12), (latent_heads, 6)])
def test_all_heads_together_are_what_attention_adds(build, width):
    model = tiny.bridge(build().eval())
    z, added = {}, {}
    hooks = [
        (f"blocks.{layer}.attn.o.hook_out", lambda value, hook, at=layer: added.update({at: value}))
        for layer in range(tiny.N_LAYERS)
    ]
    with torch.no_grad(), watch_attention(model, "hook_z", z.__setitem__), model.hooks(hooks):
        model(TOKENS)
    for layer in range(tiny.N_LAYERS):
        assert z[layer].shape[2:] == (tiny.N_HEADS, width)
        written = project_heads(model, layer, range(tiny.N_HEADS), z[layer][0, -1])
        torch.testing.assert_close(written.sum(0), added[layer][0, -1], rtol=1e-5, atol=1e-6)


def test_heads_of_latent_attention_are_ablated_one_by_one():
    plain = latent_heads().eval()
    model = tiny.bridge(plain)
    prompts = icl.Prompts.from_tokens(TOKENS, [["query"] * 5], targets=[[8]])
    with torch.no_grad():
        plain.model.layers[1].self_attn.o_proj.weight[:, 6:12] = 0  # the second of 4, each 6 wide
        expected = plain(TOKENS).logits[0, -1].log_softmax(-1)[8]
    found = icl.score_targets(model, prompts, icl.HeadAblation({(1, 1)}))
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)
    assert (icl.score_targets(model, prompts)[0] - expected).abs() > 1e-3


def test_another_width_is_refused():
    with pytest.raises(ModelError, match="takes no 4 heads of width 7"):
        project_heads(tiny.boot("llama"), 0, [0], torch.zeros(1, 7))
