"""What is no measure of the circuit is refused by what tells and draws them."""

import pytest
from saved_kinds import layer_measure

from icl_locate.errors import ResultError
from icl_locate.report.circuit import circuit_words, draw_circuit, write_circuit_report


@pytest.mark.parametrize("results", [{}, {"a": 1}, [layer_measure()]])
def test_what_is_no_measure_is_refused(results, tmp_path):
    for function in (draw_circuit, circuit_words):
        with pytest.raises(ResultError, match="measures of the circuit by name"):
            function(results)
    with pytest.raises(ResultError, match="measures of the circuit by name"):
        write_circuit_report(tmp_path / "page.html", results)
