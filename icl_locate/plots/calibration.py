"""What a calibrated score would be without calibration, beside it in a figure."""

import plotly.graph_objects as go

from icl_locate.masking.result import SweepResult
from icl_locate.plots.frame import plain


def raw_curve(result: SweepResult, condition: str, colour: str) -> go.Scatter:
    """The mean over seeds of what a condition scores without calibration."""
    place = result.conditions.index(condition)
    return go.Scatter(
        x=list(result.layers),
        y=result.uncalibrated().scores[place].mean(dim=-1).tolist(),
        mode="lines",
        name=f"{plain(condition)}, uncalibrated",
        legendgroup=condition,
        showlegend=False,
        line={"color": colour, "dash": "dot", "width": 1},
        hovertemplate=(
            f"<b>{plain(condition)}</b> hidden from layer %{{x}} on<br>"
            "score %{y:.3g} without calibration<extra></extra>"
        ),
    )
