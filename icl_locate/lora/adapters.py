"""Adapters on a Hugging Face model: put on, taught, asked, and taken off again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from icl_locate.engine.decoding import cut_at_stop
from icl_locate.errors import PromptError
from icl_locate.lora.config import LoraConfig
from icl_locate.lora.data import encode, tokenize_prompt
from icl_locate.lora.train import Rows, Training, train_adapter
from icl_locate.metrics import Answers, Statistics
from icl_locate.metrics.base import item_statistics
from icl_locate.metrics.readouts import GENERATED_TEXT
from icl_locate.models.fingerprint import weights_digest
from icl_locate.models.identity import describe_config, describe_words, end_tokens
from icl_locate.models.loading import (
    keep_commit,
    loading_error,
    quiet_loading,
    resolve_device,
    resolve_dtype,
)
from icl_locate.models.names import EMBEDDED, find_model
from icl_locate.models.trust import NO_CODE, check_weights
from icl_locate.prompts.template import PromptTemplate
from icl_locate.studies.kept import Slot, find_answers, keep_answers
from icl_locate.studies.machine import describe_run
from icl_locate.studies.naming import name_of
from icl_locate.studies.place import note_recipe
from icl_locate.studies.recipe import describe_weights, digest
from icl_locate.studies.setting import Setting


@dataclass
class Teacher:
    """A model without adapter, and what its adapters learn and are asked."""

    setting: Setting
    config: LoraConfig
    base: Any
    tokenizer: Any
    _train: Rows = field(init=False)
    _dev: Rows = field(init=False)
    _prompts: list[list[int]] = field(init=False)
    _pairs: str = field(init=False)
    _fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        config, bank = self.config, self.setting.unasked
        pairs = bank[: config.n_train], bank[config.n_train :][: config.n_dev]
        self._train, self._dev = (
            encode(self.tokenizer, self._template, some, config.loss) for some in pairs
        )
        self._prompts = [
            tokenize_prompt(self.tokenizer, self._template, query.source).tokens
            for query in self.setting.queries
        ]
        self._pairs = digest([str(self._train), str(self._dev)])
        self._fingerprint = weights_digest(self.base)

    @property
    def _template(self) -> PromptTemplate:
        return self.setting.task.template_for(instruction=False)

    def recipe(self, name: str) -> dict[str, Any]:
        """Where the numbers come from, complete before anything runs.

        Args:
            name: of the model.
        """
        return note_recipe(
            {
                **describe_weights(name, self.base, self.tokenizer),
                **self.setting.asked(),
                "instruction": False,
                "bos": any(self.tokenizer.bos_token_id in row[:1] for row in self._prompts),
                "architecture": type(self.base).__name__,
                "fingerprint": self._fingerprint,
                "pairs_sha256": self._pairs,
                "prompts_sha256": digest(map(str, self._prompts)),
                "config": asdict(self.config),
                **describe_run((weight.device for weight in self.base.parameters()), "peft"),
            }
        )

    def slot(self, adapter: Mapping[str, Any]) -> Slot:
        """Where the store keeps the answers with an adapter, or without one.

        Args:
            adapter: what tells it from others on the same base.
        """
        context = {
            "fingerprint": self._fingerprint,
            "config": describe_config(self.base),
            "tokenizer": describe_words(self.base, self.tokenizer),
            "engine": "transformers",
            "max_new_tokens": self.setting.max_new_tokens,
            "stops": list(self._template.stops),
        }
        items = [name_of([i, tokens]) for i, tokens in enumerate(self._prompts)]
        return Slot.of(context, adapter, items)

    def lesson(self, layer: int, projection: str, seed: int, place: Path) -> "Lesson":
        """What tunes one projection.

        Args:
            place: the adapter's directory, with the checkpoint from which training goes on.
        """
        adapter = {"projection": projection, "seed": seed, "config": asdict(self.config)}
        slot = self.slot(adapter | {"pairs": self._pairs})
        known = find_answers(slot, GENERATED_TEXT, len(self._prompts))
        return Lesson(layer, projection, seed, place, slot, known)

    def teach(self, lesson: "Lesson") -> tuple[Training, Answers]:
        """Tune one projection, write its adapter, and answer the queries with it."""
        config = describe_config(self.base)["sha256"]
        tuned = _add_adapter(self.base, lesson.projection, self.config, lesson.seed)
        state = train_adapter(
            tuned,
            self._train,
            self._dev,
            int(self.tokenizer.pad_token_id),
            self.config,
            seed=lesson.seed,
            checkpoint=lesson.place / "checkpoint",
            identity=f"{self.setting.task.name}, {self._fingerprint}, {self._pairs}, {config}",
        )
        tuned.save_pretrained(lesson.place)
        answers = self.answer(tuned) if lesson.known is None else lesson.known
        self.base = tuned.unload()
        vars(self.base).pop("peft_config", None)  # earlier versions of peft leave it there
        return state, answers

    def untuned(self) -> Statistics:
        """Each query's statistics without an adapter."""
        slot = self.slot({"projection": None})
        answers = find_answers(slot, GENERATED_TEXT, len(self._prompts))
        if answers is None:
            answers = self.answer(self.base)
            keep_answers(slot, GENERATED_TEXT, answers)
        return self.score(answers)

    def score(self, answers: Answers) -> Statistics:
        """Each query's statistics."""
        targets = [query.target for query in self.setting.queries]
        return item_statistics(self.setting.metric, answers, targets)

    @torch.no_grad()
    def answer(self, model: Any) -> list[str]:
        """Each query's answer; greedy, by transformers' own generation."""
        self._check_room(model)
        greedy, answers = self._greedy(model), list[str]()
        stops, size = self._template.stops, self.config.batch_size
        for start in range(0, len(self._prompts), size):
            some = {"input_ids": self._prompts[start : start + size]}
            batch = self.tokenizer.pad(some, return_tensors="pt", padding_side="left")
            tokens = batch["input_ids"].to(model.device)
            found = model.generate(
                input_ids=tokens,
                attention_mask=batch["attention_mask"].to(model.device),
                generation_config=greedy,
            )
            new = found[:, tokens.shape[1] :]
            written = self.tokenizer.batch_decode(new, skip_special_tokens=True)
            answers += [cut_at_stop(text, stops).strip() for text in written]
        return answers

    def _greedy(self, model: Any) -> GenerationConfig:
        """Plain greedy generation, without what a model's config adds to it."""
        return GenerationConfig(
            max_new_tokens=self.setting.max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(end_tokens(model, self.tokenizer)),
        )

    def _check_room(self, model: Any) -> None:
        limit = getattr(model.config, "max_position_embeddings", None)
        longest, new = max(map(len, self._prompts)), self.setting.max_new_tokens
        if limit is not None and longest + new > limit:
            raise PromptError(
                f"a prompt of {longest} tokens with {new} new ones exceeds the model's context of "
                f"{limit}: lower max_new_tokens"
            )


@dataclass(frozen=True)
class Lesson:
    """What tunes one projection of a layer: a piece of work for a `Teacher`.

    Attributes:
        place: the adapter's directory.
        slot: where its answers are kept.
        known: they, if they are there.
    """

    layer: int
    projection: str
    seed: int
    place: Path
    slot: Slot
    known: Answers | None

    def run(self, loaded: Teacher) -> tuple[Training, Answers]:
        """Where the training ended, and each query's answer."""
        return loaded.teach(self)


@dataclass(frozen=True)
class TeacherLoader:
    """Loads a teacher in another process; its fields are arguments of `lora_by_layer`."""

    setting: Setting
    config: LoraConfig
    model: str | Path | None
    device: Any
    dtype: Any
    revision: str | None

    def __call__(self) -> Teacher:
        """Load it.

        Raises:
            ModelError: if there is no such model, or it cannot be loaded.
        """
        base, tokenizer = load_base(self.model, self.device, self.dtype, self.revision)
        return Teacher(self.setting, self.config, base, tokenizer)


def load_base(
    model: str | Path | None,
    device: str | torch.device | None,
    dtype: torch.dtype | str,
    revision: str | None,
) -> tuple[Any, Any]:
    """The Hugging Face model that adapters are put on, and its tokenizer, which pads on the left.

    Raises:
        ModelError: if there is no such model, or it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, floats = find_model(model, revision), resolve_dtype(dtype)
    check_weights(where, revision)
    safe: Any = NO_CODE | {"use_safetensors": True}
    try:
        with quiet_loading():
            base = AutoModelForCausalLM.from_pretrained(
                where, dtype=floats, revision=revision, **safe
            )
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, **NO_CODE)
    except Exception as error:  # a damaged directory makes its readers raise anything
        raise loading_error(str(model or EMBEDDED), error) from error
    keep_commit(base, where, revision)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return base.to(resolve_device(device)).eval(), tokenizer


def _add_adapter(base: Any, name: str, config: LoraConfig, seed: int) -> Any:
    import peft
    from transformers.pytorch_utils import Conv1D

    adapter = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=[name],
        fan_in_fan_out=isinstance(base.get_submodule(name), Conv1D),
    )
    with torch.random.fork_rng(devices=[]):  # peft draws initial weights from the global generator
        torch.default_generator.manual_seed(seed)
        return peft.get_peft_model(base, adapter)
