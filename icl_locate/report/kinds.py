"""Which page a run has: a table from what its files hold to what writes the page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_locate.agreement import Agreement
from icl_locate.checkpoints import OverCheckpoints
from icl_locate.circuit import Disconnections, HeadMeasure, LayerMeasure
from icl_locate.errors import ResultError
from icl_locate.formation import FormationStudy
from icl_locate.gates import GatesResult
from icl_locate.induction import AblationResult, HeadEffects, HeadScores
from icl_locate.lora import LoraResult
from icl_locate.masking.location import locate
from icl_locate.masking.result import SweepResult
from icl_locate.models.steps import step_of
from icl_locate.records.files import as_path
from icl_locate.records.saved import Saved
from icl_locate.records.sealed import unseal
from icl_locate.report.agreement import write_agreement_report
from icl_locate.report.checkpoints import write_checkpoint_report
from icl_locate.report.circuit import write_circuit_report
from icl_locate.report.formation import write_formation_report
from icl_locate.report.gates import write_gates_report
from icl_locate.report.heads import write_head_report
from icl_locate.report.lora import write_lora_report
from icl_locate.report.result import FIGURES, write_result_report
from icl_locate.report.savings import write_savings_report
from icl_locate.report.sweep import write_importance_report, write_report
from icl_locate.report.vectors import peak_of, write_vector_report
from icl_locate.savings import MeasuredSavings
from icl_locate.vectors import LayerScores, StrengthScores, TaskVectors

Found = Mapping[str, Any]
"""The results of a run, by their files' names."""


@dataclass(frozen=True)
class Kind:
    """A kind of page.

    Attributes:
        page: the file's name, as commands write it.
        needs: the kinds of results that must be there.
        write: writes the page of what was found, with a confidence for its intervals.
        takes: other kinds of results that it shows if they are there.
        gathers: whether it shows any number of results of the kinds that it needs.
    """

    page: str
    needs: tuple[type[Any], ...]
    write: Callable[[Path, Found, float], Path]
    takes: tuple[type[Any], ...] = ()
    gathers: bool = False

    def fits(self, found: Found) -> bool:
        """Whether a run has what the page needs."""
        there = {type(one) for one in found.values()}
        return bool(there & {*self.needs}) if self.gathers else {*self.needs} <= there


def _one(kind: type[Any], found: Found) -> Any:
    """The first result of a kind; ``None`` if there is none."""
    return next((one for one in found.values() if type(one) is kind), None)


def _write_sweep(path: Path, found: Found, confidence: float) -> Path:
    result = _one(SweepResult, found)
    if result.provenance.get("scope", "from") != "from":
        return write_importance_report(result, path, confidence=confidence)
    return write_report(result, path, locate(result, confidence=confidence))


def _write_heads(path: Path, found: Found, confidence: float) -> Path:
    result, effects = _one(AblationResult, found), _one(HeadEffects, found)
    compared = result.compare(confidence=confidence)
    return write_head_report(path, _one(HeadScores, found), effects, result, compared)


def _write_circuit(path: Path, found: Found, confidence: float) -> Path:
    kinds = LayerMeasure, HeadMeasure, Disconnections
    measures = {name: one for name, one in found.items() if isinstance(one, kinds)}
    return write_circuit_report(path, measures, confidence=confidence)


def _write_vectors(path: Path, found: Found, confidence: float) -> Path:
    kinds = TaskVectors, LayerScores, StrengthScores
    result = next(one for one in found.values() if isinstance(one, kinds))
    return write_vector_report(path, result, peak_of(result, confidence), confidence=confidence)


def _write_checkpoints(path: Path, found: Found, confidence: float) -> Path:
    return write_checkpoint_report(path, _one(OverCheckpoints, found), confidence=confidence)


def _writes(kind: type[Any], write: Callable[..., Path]) -> Callable[[Path, Found, float], Path]:
    """A page of one result, whose intervals are the result's own."""
    return lambda path, found, _: write(path, _one(kind, found))


KINDS: tuple[Kind, ...] = (
    Kind("report.html", (SweepResult,), _write_sweep),
    Kind("checkpoints.html", (OverCheckpoints,), _write_checkpoints),
    Kind("induction.html", (HeadScores, AblationResult), _write_heads, (HeadEffects,)),
    Kind("circuit.html", (LayerMeasure, HeadMeasure, Disconnections), _write_circuit, gathers=True),
    Kind("vectors.html", (TaskVectors, LayerScores, StrengthScores), _write_vectors, gathers=True),
    Kind("agreement.html", (Agreement,), _writes(Agreement, write_agreement_report)),
    Kind("formation.html", (FormationStudy,), _writes(FormationStudy, write_formation_report)),
    Kind("savings.html", (MeasuredSavings,), _writes(MeasuredSavings, write_savings_report)),
    Kind("gates.html", (GatesResult,), _writes(GatesResult, write_gates_report)),
    Kind("lora.html", (LoraResult,), _writes(LoraResult, write_lora_report)),
    *(Kind("result.html", (kind,), _writes(kind, write_result_report)) for kind in FIGURES),
)
"""All pages; of a run that fits several, the first."""

_FORMS: Mapping[str, type[Saved]] = {
    form: kind
    for page in KINDS
    for kind in (*page.needs, *page.takes)
    if (form := getattr(kind, "_form", None))
}


def read_run(path: str | Path) -> dict[str, Any]:
    """The results in a directory that a command wrote to, or in a file, by their files' names.

    Raises:
        ResultError: if there is none that has a page, or one is damaged.
    """
    place = as_path(path, "run")
    if place.is_dir() and any(step_of(one.name) is not None for one in place.iterdir()):
        return {place.name: OverCheckpoints.load(place)}
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    forms = {file: unseal(file, None).form for file in files}
    found = {file.stem: _FORMS[form].load(file) for file, form in forms.items() if form in _FORMS}
    if not found:
        holds = ", ".join(f"{file.name} ({form})" for file, form in forms.items())
        raise ResultError(
            f"{place} holds no result that has a page: it holds {holds or 'no .safetensors file'}; "
            "expected a directory that a command wrote to, or a result's file"
        )
    return found


def kind_of(found: Found) -> Kind:
    """The page of a run's results."""
    return next(kind for kind in KINDS if kind.fits(found))
