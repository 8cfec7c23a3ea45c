"""Few-shot prompts for a model: chosen, laid out, tokenised once, and checked against it."""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from icl_locate.checks.arguments import LAST_SEED, refuse
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.errors import ModelError, PromptError
from icl_locate.prompts.alignment import TokenizedPrompt, align, continue_prompt
from icl_locate.prompts.batch import Prompts as Prompts
from icl_locate.prompts.batch import pad_rows
from icl_locate.prompts.encoding import check_tokenizer as check_tokenizer
from icl_locate.prompts.template import (
    Choice,
    Example,
    PromptTemplate,
    choose_examples,
)


@runtime_checkable
class TokenizedModel(Protocol):
    """What prompts need of a model: a tokenizer, and a configuration with its context length."""

    tokenizer: PreTrainedTokenizerBase | None

    @property
    def cfg(self) -> object:
        """The configuration."""
        ...


@checked(PromptError, model=anything, seed=whole(-LAST_SEED, LAST_SEED))
def build_prompts(
    model: TokenizedModel,
    queries: Sequence[Example],
    *,
    examples: Sequence[Example] = (),
    n_shots: int = 5,
    template: PromptTemplate | None = None,
    seed: int = 0,
    choice: Choice | str = "random",
    prepend_bos: bool | None = None,
    shots: Sequence[Sequence[Example]] | None = None,
) -> Prompts:
    """Build few-shot prompts for a model: choose examples, lay them out, tokenise, align and pad.

    Args:
        queries: the items to answer; their targets become ``prompts.targets``.
        examples: the bank that shots are drawn from, without the query itself.
        n_shots: examples a prompt.
        template: the layout; the default has no instruction.
        seed: which examples are drawn; the draw depends on it and the query's source alone.
        choice: "random", "balanced" over the targets, or "disjoint": balanced, and sharing no word
            with the query.
        prepend_bos: ``None`` follows ``model.tokenizer``, which TransformerLens sets to prepend
            BOS wherever there is one (GPT-2 too); True or False force it.
        shots: what each query is shown, in this order, where nothing is to be drawn: ``examples``,
            ``n_shots``, ``seed`` and ``choice`` do not act then.

    Raises:
        ModelError: a model without tokenizer and configuration, such as a name.
        PromptError: no queries; too few examples; shots of other queries; an empty source or
            target; a prompt that exceeds the model's context; control tokens in a source or target
            that the template refuses; tokens beyond its vocabulary; a tokenizer without offsets,
            padding token or (if asked for) BOS.
    """
    _check_kind(model)
    template = template or PromptTemplate()
    tokenizer = check_tokenizer(model.tokenizer)
    if not queries:
        raise PromptError("no queries were given: expected at least one Example")
    if shots is None:
        shots = [choose_examples(q, examples, n_shots, seed=seed, choice=choice) for q in queries]
    pairs = _lay_out(tokenizer, template, queries, shots, prepend_bos)
    rows, targets = [row for row, _ in pairs], [target for _, target in pairs]
    check_length(model, [len(row.tokens) for row in rows], targets)
    prompts = pad_rows(
        rows,
        int(tokenizer.pad_token_id),
        target_tokens=targets,
        texts=[row.text for row in rows],
        sources=[query.source for query in queries],
        targets=[query.target for query in queries],
        template=template,
    )
    check_vocabulary(model, [*prompts.tokens.tolist(), *targets])
    return prompts


def _lay_out(
    tokenizer: PreTrainedTokenizerBase,
    template: PromptTemplate,
    queries: Sequence[Example],
    shots: Sequence[Sequence[Example]],
    prepend_bos: bool | None,
) -> list[tuple[TokenizedPrompt, list[int]]]:
    """Each query's prompt, and its target's tokens.

    Raises:
        PromptError: shots of other queries; empty texts; control tokens that the template refuses.
    """
    if len(shots) != len(queries):
        raise PromptError(
            f"shots are of {len(shots)} queries, but there are {len(queries)}: expected the "
            "examples of each"
        )
    found = []
    for query, shown in zip(queries, shots, strict=True):
        for example in (query, *shown):
            _check_example(example)
        spans = template.render(shown, query.source)
        special = template.special_tokens
        row = align(tokenizer, spans, prepend_bos=prepend_bos, special_tokens=special)
        target = continue_prompt(tokenizer, row.text, row.body, query.target, template)
        found.append((row, target))
    return found


def check_prompts(model: TokenizedModel, prompts: Prompts) -> None:
    """Refuse prompts that a model cannot run, such as some of one's own tokens.

    Raises:
        ModelError: if it is none.
        PromptError: tokens beyond its vocabulary; a prompt that exceeds its context.
    """
    _check_kind(model)
    size = vocabulary_size(model)
    highest = max((max(row, default=0) for row in prompts.target_tokens), default=0)
    if size is not None and max(highest, int(prompts.tokens.max())) >= size:
        check_vocabulary(model, [*prompts.tokens.tolist(), *prompts.target_tokens])
    check_length(model, prompts.attention_mask.sum(dim=1).tolist(), prompts.target_tokens)


def _check_kind(model: object) -> None:
    if not isinstance(model, TokenizedModel):
        hint = "icl_locate.load_model(NAME_OR_DIRECTORY) gives one"
        refuse("model", model, "a TransformerBridge with a tokenizer", ModelError, hint)


def check_vocabulary(model: TokenizedModel, rows: Iterable[Iterable[int]]) -> None:
    """Refuse tokens that the model has no embedding of, such as those added to its tokenizer.

    Raises:
        PromptError: naming the first one, and how many tokens model and tokenizer have.
    """
    size = vocabulary_size(model)
    if size is None:
        return
    beyond = [token for row in rows for token in row if token >= size]
    if not beyond:
        return
    if model.tokenizer is None or beyond[0] >= len(model.tokenizer):
        raise PromptError(
            f"token {beyond[0]} is beyond the model's vocabulary of {size} tokens: expected token "
            f"ids from 0 to {size - 1}"
        )
    text = model.tokenizer.convert_ids_to_tokens(beyond[0])
    raise PromptError(
        f"token {beyond[0]} ({text!r}) is beyond the model's vocabulary of {size} tokens; its "
        f"tokenizer has {len(model.tokenizer)}: load the model with its own tokenizer, without "
        "tokens that were added, or resize the embedding before the model becomes a bridge"
    )


def vocabulary_size(model: TokenizedModel) -> int | None:
    """How many tokens the model has embeddings of; ``None`` if that is not known."""
    inner = getattr(model, "original_model", None)
    if inner is not None:
        return int(inner.get_input_embeddings().weight.shape[0])
    size = getattr(model.cfg, "d_vocab", None)
    return None if size is None else int(size)


def _check_example(example: Example) -> None:
    for name in ("source", "target"):
        if not getattr(example, name).strip():
            raise PromptError(f"{example!r} has an empty {name}: expected text")


def check_length(
    model: TokenizedModel, lengths: Sequence[int], targets: Sequence[Sequence[int]]
) -> None:
    """Refuse prompts that exceed the model's context, with their targets.

    Args:
        lengths: of the prompts, in tokens.

    Raises:
        PromptError: naming the longest one.
    """
    limit = getattr(model.cfg, "n_ctx", None)
    whole = [length + len(target) for length, target in zip(lengths, targets, strict=True)]
    longest = max(range(len(whole)), key=whole.__getitem__)
    if limit is not None and whole[longest] > limit:
        raise PromptError(
            f"prompt {longest} takes {lengths[longest]} tokens, {whole[longest]} with "
            f"its target, but the model's context holds {limit}: use fewer shots or shorter text"
        )
