"""Generation and scoring under a mask."""

from dataclasses import replace

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment
from icl_locate.engine.decoding import check_room, cut_at_stop
from icl_locate.engine.forward import keep_logits, require_numbers
from icl_locate.engine.labels import label_tokens
from icl_locate.engine.scoring import append_targets
from icl_locate.errors import NumericalError, PromptError

BANK = [icl.Example("sort reverse double", "dode zimo goza"), icl.Example("thin", "zimo")]
QUERIES = [
    icl.Example("reverse", "dode"),
    icl.Example("one thin zero", "rovu goza zimo"),
    icl.Example("zero", "rovu"),
]
MASK = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))


@pytest.fixture(scope="module", params=["llama", "gpt_neo", "mistral", "bloom"])
def model(request):
    return tiny.boot(request.param)


@pytest.fixture(scope="module")
def prompts(model):
    return icl.build_prompts(model, QUERIES, examples=BANK, n_shots=2)


@pytest.mark.parametrize("mask", [None, MASK])
def test_score_targets_equals_a_loop_over_tokens(model, prompts, mask):
    """The naive way: one prompt at a time, one growing text a token, no padding."""
    naive = []
    for i in range(len(prompts)):
        single, total = prompts[i : i + 1], 0.0
        target = single.target_tokens[0]
        for n in range(len(target)):
            grown = append_targets(single)
            cut = single.tokens.shape[1] + n
            shown = replace(
                grown,
                tokens=grown.tokens[:, :cut],
                attention_mask=grown.attention_mask[:, :cut],
                segments=grown.segments[:, :cut],
                parts=grown.parts[:, :cut],
                shots=grown.shots[:, :cut],
                words=grown.words[:, :cut],
            )
            with torch.no_grad():
                if mask is None:
                    logits = model(shown.tokens)
                else:
                    with icl.mask_attention(model, shown, mask):
                        logits = model(shown.tokens)
            total += logits[0, -1].log_softmax(-1)[target[n]].item()
        naive.append(total)
    for batch_size in (1, 2, 32):
        ours = icl.score_targets(model, prompts, mask, batch_size=batch_size)
        assert ours.tolist() == pytest.approx(naive, abs=1e-4)


def test_answers_do_not_depend_on_the_batch(model, prompts):
    answers = icl.generate(model, prompts, MASK, max_new_tokens=5, stop=())
    assert answers == icl.generate(model, prompts, MASK, max_new_tokens=5, stop=(), batch_size=1)
    assert any(answers)


def test_stop_strings_end_an_answer_and_are_cut_off(model, prompts):
    free = icl.generate(model, prompts, max_new_tokens=6, stop=())
    word = max(free, key=lambda text: len(text.split())).split()[-1]
    stopped = icl.generate(model, prompts, max_new_tokens=6, stop=(word,))
    assert stopped == [cut_at_stop(text, (word,)).strip() for text in free]
    assert not any(word in text for text in stopped)


def test_one_stop_string_may_stand_alone(model, prompts):
    free = icl.generate(model, prompts, max_new_tokens=6, stop=())
    word = max(free, key=len).strip()[:2]
    alone = icl.generate(model, prompts, max_new_tokens=6, stop=word)
    assert alone == icl.generate(model, prompts, max_new_tokens=6, stop=(word,))
    assert alone == [cut_at_stop(text, (word,)).strip() for text in free]


def test_bad_generation_arguments(model, prompts):
    with pytest.raises(PromptError, match="max_new_tokens is 0"):
        icl.generate(model, prompts, max_new_tokens=0)
    with pytest.raises(PromptError, match="stop string is empty"):
        icl.generate(model, prompts, stop=("",))
    if model.cfg.n_ctx == tiny.N_CTX:
        with pytest.raises(PromptError, match="exceeds the model's context of 256"):
            icl.generate(model, prompts, max_new_tokens=250)


def test_new_tokens_and_labels_fill_the_context_to_the_last_token(monkeypatch):
    """Padding does not count, and all of the longest prompt's new tokens do."""
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=2)
    lengths, label = prompts.attention_mask.sum(dim=1), "rovu goza zimo"
    assert lengths.min() < lengths.max() == prompts.tokens.shape[1]
    n_label = len(label_tokens(model, prompts, [label])[0][0])
    longest = int(lengths.max())
    assert n_label > 1
    monkeypatch.setattr(model.cfg, "n_ctx", longest + n_label)
    check_room(model, prompts, n_label)
    label_tokens(model, prompts, [label, "zimo"])
    with pytest.raises(PromptError, match=f"{longest} tokens with {n_label + 1} new ones exceeds"):
        check_room(model, prompts, n_label + 1)
    monkeypatch.setattr(model.cfg, "n_ctx", longest + n_label - 1)
    with pytest.raises(PromptError, match=f"'{label}' takes {n_label} tokens behind a prompt of"):
        label_tokens(model, prompts, ["zimo", label])
    shorter = prompts[:1] if lengths[0] < longest else prompts[2:]
    label_tokens(model, shorter, [label])


def test_nan_logits_are_refused():
    broken = tiny.build("llama")
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    model = tiny.bridge(broken)
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=2)
    with pytest.raises(NumericalError, match="NaN for prompt 0"):
        icl.generate(model, prompts, max_new_tokens=2)
    with pytest.raises(NumericalError, match="NaN for prompt 0"):
        icl.score_targets(model, prompts)


def test_one_nan_among_numbers_is_refused():
    values = torch.arange(6.0).view(3, 2)
    assert require_numbers(values) is values
    values[1, 0] = torch.nan
    with pytest.raises(NumericalError, match="NaN for prompt 1 of the batch"):
        require_numbers(values)
    values[0] = torch.inf
    with pytest.raises(NumericalError, match="NaN for prompt 1"):
        require_numbers(values)


def test_only_the_last_positions_are_unembedded_where_a_model_can(monkeypatch):
    model = tiny.boot("llama")
    assert keep_logits(model, 2) == {"logits_to_keep": 2}
    monkeypatch.setattr(model.original_model, "forward", lambda input_ids: input_ids)
    assert keep_logits(model, 2) == {}


def test_a_model_in_training_mode_is_refused(model, prompts):
    from icl_locate.errors import ModelError

    model.train()
    try:
        for run in (icl.generate, icl.score_targets):
            with pytest.raises(ModelError, match="call model.eval"):
                run(model, prompts, MASK)
            with pytest.raises(ModelError, match="call model.eval"):
                run(model, prompts)
    finally:
        model.eval()


@pytest.mark.parametrize("size", [0, -1])
def test_batch_sizes_are_checked(model, prompts, size):
    with pytest.raises(PromptError, match=f"batch_size is {size}"):
        icl.generate(model, prompts, max_new_tokens=1, batch_size=size)


def test_a_mask_for_other_prompts_is_refused(model, prompts):
    from icl_locate.errors import MaskError

    with icl.mask_attention(model, prompts, MASK), torch.no_grad():
        with pytest.raises(MaskError, match="under a mask made for prompts of 3 x"):
            model(prompts.tokens[:1], attention_mask=prompts.attention_mask[:1].long())
        with pytest.raises(MaskError, match="run it on prompts.tokens"):
            model(prompts.tokens[:, :4], attention_mask=prompts.attention_mask[:, :4].long())
    lonely = icl.build_prompts(model, QUERIES, n_shots=0)
    with (
        pytest.raises(MaskError, match="hides EXAMPLES, but prompt 0"),
        icl.mask_attention(model, lonely, MASK),
    ):
        pass
