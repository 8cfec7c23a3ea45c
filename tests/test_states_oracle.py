"""State edits and `icl.states` against plain Hugging Face models, run in a process of its own."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Part, Segment
from icl_locate.interventions.edits import POINTS

ARCHITECTURES = [*tiny.ARCHITECTURES, *tiny.MORE]
BANK = [icl.Example("sort reverse double", "dode zimo goza"), icl.Example("thin", "zimo")]
QUERIES = [
    icl.Example("reverse", "dode"),
    icl.Example("one thin zero", "rovu goza zimo"),
    icl.Example("zero", "rovu"),
]
N_NEW = 4
CLOSE = {"atol": 1e-4, "rtol": 0}
SHARED, BY_PROMPT, BY_POSITION = "shared", "by prompt", "by position"


def is_last(prompts, i, j):
    return j == prompts.tokens.shape[1] - 1


def ends_target(prompts, i, j):
    def within(k):
        return prompts.parts[i, k] == Part.TARGET and prompts.shots[i, k] == prompts.shots[i, j]

    return bool(prompts.segments[i, j] == Segment.EXAMPLES and within(j) and not within(j + 1))


def opens_target(prompts, i, j):
    known = prompts.shots[i, j] == 2 and prompts.parts[i, j] == Part.TARGET
    return bool(known and not (prompts.shots[i, j - 1] == 2 and prompts.parts[i, j - 1] == 3))


def of_query(prompts, i, j):
    return bool(prompts.segments[i, j] == Segment.QUERY)


def is_real(prompts, i, j):
    return bool(prompts.segments[i, j] != Segment.PAD)


ENDS = icl.At("examples", "target", shot="each", which="last")
KINDS = {
    "replace": ("resid_pre", 1, None, "last", is_last, BY_PROMPT, 1.0),
    "interpolate": ("z", 1, 2, "query", of_query, BY_POSITION, 0.3),
    "steer": ("attn_out", 0, None, "examples", None, SHARED, 0.7),
    "add": ("mlp_out", 2, None, ["last", ENDS], None, SHARED, 1.0),
    "scale": ("resid_post", 0, None, "all", is_real, 0.5, 1.0),
    "replace one": ("z", 2, 3, icl.At("examples", Part.TARGET, 2, "first"), opens_target,
                    BY_PROMPT, 1.0),
    "steer away": ("mlp_out", 1, None, "last", is_last, BY_PROMPT, -0.5),
    "replace before all": ("resid_pre", 0, None, ENDS, ends_target, BY_POSITION, 1.0),
    "add behind all": ("resid_post", 2, None, Segment.QUERY, of_query, BY_PROMPT, 1.0),
    "interpolate attention": ("attn_out", 2, None, "all", is_real, SHARED, 1.0),
}  # fmt: skip


def chosen(prompts, kind):
    """The (prompt, position) pairs of a kind, by its definition."""
    rule = KINDS[kind][4]
    found = []
    for i in range(len(prompts)):
        for j in range(prompts.tokens.shape[1]):
            if kind == "steer":
                fits = bool(prompts.segments[i, j] == Segment.EXAMPLES)
            elif kind == "add":
                fits = is_last(prompts, i, j) or ends_target(prompts, i, j)
            else:
                fits = rule(prompts, i, j)
            if fits:
                found.append((i, j))
    return found


@cache
def prompts_for(architecture):
    template = icl.PromptTemplate(instruction="sort thin:")
    return icl.build_prompts(
        tiny.boot(architecture), QUERIES, examples=BANK, n_shots=2, template=template
    )


def width_of(architecture, point):
    if point != "z":
        return tiny.D_MODEL
    return 12 if architecture == "llama_wide" else tiny.D_MODEL // tiny.N_HEADS


@cache
def edits(architecture, kind, generated=False):
    """An edit, and how the oracle is told of it."""
    point, layer, head, at, _, shape, weight = KINDS[kind]
    prompts = prompts_for(architecture)
    method, rows = kind.partition(" ")[0], chosen(prompts, kind)
    width = width_of(architecture, point)
    generator = torch.Generator().manual_seed(len(kind))
    behind = [None] * len(prompts)
    if isinstance(shape, float):
        values, given = shape, [torch.full((width,), shape)] * len(rows)
        behind = given[: len(prompts)]
    elif shape == SHARED:
        values = torch.randn(width, generator=generator)
        given, behind = [values] * len(rows), [values] * len(prompts)
    elif shape == BY_PROMPT:
        values = torch.randn(len(prompts), width, generator=generator)
        given, behind = [values[i] for i, _ in rows], list(values)
    else:
        most = max(sum(i == k for k, _ in rows) for i in range(len(prompts)))
        values = torch.full((len(prompts), most, width), torch.nan)
        given = []
        for i, _ in rows:
            n = sum(i == k for k, _ in rows[: len(given)])
            values[i, n] = torch.randn(width, generator=generator)
            given.append(values[i, n])
    edit = icl.StateEdit(
        method, values, layer, at, point=point, head=head, weight=weight, generated=generated
    )
    return edit, {
        "method": method, "layer": layer, "point": point, "head": head, "weight": weight,
        "rows": rows, "values": given, "generated": behind,
    }  # fmt: skip


ORDER = ("replace", "interpolate", "scale", "add", "steer")
TOGETHER = sorted(KINDS, key=lambda kind: ORDER.index(kind.partition(" ")[0]))
FOLLOWED = [kind for kind in TOGETHER if KINDS[kind][5] != BY_POSITION]


def composed(architecture, kinds, generated=False):
    """All of some edits at once."""
    first, *others = (edits(architecture, kind, generated)[0] for kind in kinds)
    for other in others:
        first = other | first
    return first


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the oracle says of every architecture."""
    home = tmp_path_factory.mktemp("oracle")
    asked = {}
    for architecture in ARCHITECTURES:
        prompts = prompts_for(architecture)
        assert not prompts.attention_mask.all(), "a padded batch"
        tiny.build(architecture).save_pretrained(home / architecture)
        alone = [[edits(architecture, kind)[1]] for kind in KINDS]
        together = [edits(architecture, kind)[1] for kind in TOGETHER]
        asked[architecture] = {
            "path": str(home / architecture), "tokens": prompts.tokens,
            "real": prompts.attention_mask, "n_new": N_NEW, "runs": [*alone, together],
            "follow": [[edits(architecture, kind, True)[1] for kind in FOLLOWED]],
        }  # fmt: skip
    torch.save(asked, home / "job")
    script = Path(__file__).with_name("state_oracle.py")
    subprocess.run([sys.executable, str(script), str(home / "job")], check=True, cwd=home)
    return torch.load(home / "job.answers")


def logits_of(architecture, intervention=None):
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    with torch.no_grad(), icl.intervene(model, prompts, intervention or icl.HeadScale({})):
        return model(prompts.tokens, attention_mask=prompts.attention_mask.long())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edits_equal_hugging_face(architecture, answers):
    real = prompts_for(architecture).attention_mask
    wanted = answers[architecture]
    torch.testing.assert_close(logits_of(architecture)[real], wanted["clean"][real], **CLOSE)
    runs = [edits(architecture, kind)[0] for kind in KINDS] + [composed(architecture, KINDS)]
    for edit, logits in zip(runs, wanted["runs"], strict=True):
        found = logits_of(architecture, edit)
        torch.testing.assert_close(found[real], logits[real], **CLOSE)
        assert (found - wanted["clean"])[real].abs().max() > 5e-4, "it matters"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generated_tokens_are_edited_as_in_hugging_face(architecture, answers):
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    for kinds, wanted in zip([FOLLOWED], answers[architecture]["follow"], strict=True):
        with icl.intervene(model, prompts, composed(architecture, kinds, generated=True)):
            for cached in (True, False):
                found = model.generate(
                    prompts.tokens, attention_mask=prompts.attention_mask, max_new_tokens=N_NEW,
                    do_sample=False, stop_at_eos=False, use_past_kv_cache=cached, verbose=False,
                )  # fmt: skip
                assert found[:, -N_NEW:].tolist() == wanted.tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_are_those_of_hugging_face(architecture, answers):
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    real, wanted = prompts.attention_mask, answers[architecture]
    for point in POINTS:
        found = icl.states(model, prompts, "all", point=point, batch_size=2)
        for layer in range(tiny.N_LAYERS):
            there = wanted["seen"][f"{layer} {point}"]
            for i in range(len(prompts)):
                n = int(real[i].sum())
                given = found[layer, i, :n].flatten(1)
                torch.testing.assert_close(given, there[i][real[i]], **CLOSE)
                assert found[layer, i, n:].isnan().all()
    last = icl.states(model, prompts, "last")[:, :, 0]
    for layer in range(tiny.N_LAYERS - 1):  # what stands behind the last is normalised there
        hidden = wanted["hidden"][layer + 1][:, -1]
        torch.testing.assert_close(last[layer], hidden, **CLOSE)
