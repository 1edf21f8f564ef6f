"""What a net learns from plain text: one file an objective, one line each in this table."""

from sapwood.objectives.draws import Documents, Draws
from sapwood.objectives.parsing import parse
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import NO_TARGET, Arrays, Objective, Piece, Window

__all__ = [
    "NO_TARGET",
    "OBJECTIVES",
    "Arrays",
    "Documents",
    "Draws",
    "Objective",
    "Piece",
    "Vocabulary",
    "Window",
    "objective",
]

OBJECTIVES = {
    "clm": "sapwood.objectives.clm:Clm",
    "mlm": "sapwood.objectives.mlm:Mlm",
    "nsp": "sapwood.objectives.nsp:Nsp",
    "sop": "sapwood.objectives.sop:Sop",
    "plm": "sapwood.objectives.plm:Plm",
    "span": "sapwood.objectives.span:Span",
    "prefix_lm": "sapwood.objectives.prefix_lm:PrefixLm",
    "ul2": "sapwood.objectives.ul2:Ul2",
    "rtd": "sapwood.objectives.rtd:Rtd",
    "fim": "sapwood.objectives.fim:Fim",
}


def objective(text: str) -> Objective:
    """Return the objective that a line names: "mlm", "mlm(rate=0.15)+nsp", "span(mean=8)".

    A sum of one on tokens (mlm, rtd, plm) and one on pairs (nsp, sop) has both targets in each
    example; mix(0.7*span+0.3*prefix_lm(form=pair)) makes each example by one of its members. Raises
    ConfigError: E-CONFIG-001 an unknown name, E-CONFIG-202 settings out of range, E-CONFIG-203 what
    does not go together, E-CONFIG-205 everything else that is wrong with the line.

    >>> str(objective("mlm(rate=0.15, unit=word) + nsp"))
    'mlm(rate=0.15, unit=word)+nsp'
    """
    return parse(text, OBJECTIVES)
