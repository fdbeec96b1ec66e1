"""Einsums as Unicode text and as LaTeX."""

from __future__ import annotations

from einsum_cascade.affine import Affine
from einsum_cascade.cascade import (
    Access,
    Call,
    Cascade,
    Condition,
    Coordinate,
    DataCondition,
    Einsum,
    Gather,
    Node,
    Number,
)

_UNICODE = {
    "add": " + ",
    "sub": " − ",
    "mul": " · ",
    "div": " / ",
    "floordiv": " // ",
    "mod": " % ",
    "lshift": " << ",
    "rshift": " >> ",
}
_LATEX = _UNICODE | {
    "sub": " - ",
    "mul": " \\cdot ",
    "floordiv": " \\mathbin{//} ",
    "mod": " \\bmod ",
    "lshift": " \\ll ",
    "rshift": " \\gg ",
}
_BINDING = {
    "lshift": 0,
    "rshift": 0,
    "add": 1,
    "sub": 1,
    "mul": 2,
    "div": 2,
    "floordiv": 2,
    "mod": 2,
    "neg": 3,
}
_NOT_ASSOCIATIVE = ("sub", "div", "floordiv", "mod", "lshift", "rshift")
_BIG = {"add": "Σ", "mul": "Π", "max": "max", "min": "min"}
_BIG_LATEX = {"add": "\\sum", "mul": "\\prod", "max": "\\max", "min": "\\min"}
_COMPARE = {"<=": "≤", ">=": "≥", "!=": "≠", "==": "="}
_COMPARE_LATEX = {"<=": "\\le", ">=": "\\ge", "!=": "\\ne", "==": "="}
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def unicode_einsum(einsum: Einsum) -> str:
    """One line.

    >>> from einsum_cascade import parse_cascade
    >>> cascade = parse_cascade("{name: x, ranks: [K], inputs: ['A[k]', 'B[k]'], "
    ...     "body: ['Y = A[k]*B[k]']}")
    >>> print(cascade.einsum("Y"))
    Y = Σₖ A[k] · B[k]
    """
    reduction = ""
    if einsum.reduction is not None:
        over = ",".join(r.lower() for r in einsum.reduction_ranks)
        mark = _BIG.get(einsum.reduction, einsum.reduction)
        under = "ₖ" if over == "k" else f"[{over}]"
        reduction = f"{mark}{under} "
    body = _node(einsum.expression, latex=False)
    if reduction and _loose(einsum.expression):
        body = f"({body})"
    where = ", ".join(
        [f"{c.left} {_COMPARE.get(c.comparison, c.comparison)} {c.right}" for c in einsum.filters]
        + [_data_condition(c, latex=False) for c in einsum.data_filters]
    )
    text = f"{einsum.output} = {reduction}{body}"
    return f"{text}   where {where}" if where else text


def unicode_cascade(cascade: Cascade) -> str:
    """All sections, an Einsum a line."""
    lines = [cascade.name]
    for section, title in (
        ("initialization", "initialization"),
        ("body", "body"),
        ("final", "final"),
    ):
        here = [e for e in cascade.einsums if e.section == section]
        if not here:
            continue
        lines.append(f"  {title}")
        lines += [f"    {unicode_einsum(e)}" for e in here]
    for rank in cascade.ranks.values():
        if rank.iterative:
            lines.append(f"  iterate {rank.variable} from {rank.start}, stop at {rank.stop}")
    return "\n".join(lines)


def latex_einsum(einsum: Einsum) -> str:
    """One line for an `aligned` environment, in the manner of EDGE.

    >>> from einsum_cascade import parse_cascade
    >>> cascade = parse_cascade("{name: x, ranks: [M], inputs: ['A[m]'], "
    ...     "body: ['G = max over m of A[m]']}")
    >>> print(latex_einsum(cascade.einsum("G")))
    G &= \\max_{m} A_{m}
    """
    reduction = ""
    if einsum.reduction is not None:
        over = ",".join(_symbol(r.lower()) for r in einsum.reduction_ranks)
        default = f"\\operatorname{{{_escaped(einsum.reduction)}}}"
        reduction = f"{_BIG_LATEX.get(einsum.reduction, default)}_{{{over}}} "
    body = _node(einsum.expression, latex=True)
    if reduction and _loose(einsum.expression):
        body = f"\\left({body}\\right)"
    conditions = [*map(_latex_condition, einsum.filters)]
    conditions += [_data_condition(c, latex=True) for c in einsum.data_filters]
    where = ", ".join(conditions)
    text = f"{_latex_access(einsum.output)} &= {reduction}{body}"
    return f"{text} \\quad ({where})" if where else text


def latex_cascade(cascade: Cascade) -> str:
    """An `aligned` environment with the sections named."""
    lines = []
    for section in ("initialization", "body", "final"):
        here = [e for e in cascade.einsums if e.section == section]
        if here:
            lines.append(f"&\\text{{{section}}} \\\\")
            lines += [f"{latex_einsum(e)} \\\\" for e in here]
    for rank in cascade.ranks.values():
        if rank.iterative and rank.stop is not None:
            variable = _symbol(rank.variable)
            lines.append(f"&\\diamond: {variable} \\ge {_latex_index(rank.stop)}")
    return "\\begin{aligned}\n" + "\n".join(lines) + "\n\\end{aligned}"


def _loose(node: Node) -> bool:
    """Whether an expression needs parentheses behind a reduction sign."""
    return isinstance(node, Call) and node.operator in ("add", "sub")


def _node(node: Node, latex: bool) -> str:
    if isinstance(node, Number):
        infinity = "\\infty" if latex else "∞"
        return f"{node.value}".replace("inf", infinity)
    if isinstance(node, Coordinate):
        return _latex_index(node.index) if latex else str(node.index)
    if isinstance(node, Access):
        return _latex_access(node) if latex else str(node)
    return _call(node, latex)


def _call(node: Call, latex: bool) -> str:
    operator, arguments = node.operator, [_node(a, latex) for a in node.arguments]
    if operator == "div" and latex:
        return f"\\frac{{{arguments[0]}}}{{{arguments[1]}}}"
    if operator not in _BINDING:
        if latex and operator == "sqrt":
            return f"\\sqrt{{{arguments[0]}}}"
        known = operator in ("exp", "log", "max", "min")
        name = operator
        if latex:
            name = f"\\{operator}" if known else f"\\operatorname{{{_escaped(operator)}}}"
        return f"{name}({', '.join(arguments)})"
    bound = _BINDING[operator]
    for position, argument in enumerate(node.arguments):
        if isinstance(argument, Call):
            inner = _BINDING.get(argument.operator, 9)
            inner = 9 if latex and argument.operator == "div" else inner
        elif isinstance(argument, Number) and argument.value < 0:
            inner = 1 if position else 9
        elif isinstance(argument, Coordinate) and len(argument.index.terms) > 1:
            inner = 1
        else:
            continue
        strict = position == 1 and operator in _NOT_ASSOCIATIVE
        if inner < bound or (strict and inner == bound):
            arguments[position] = f"({arguments[position]})"
    if operator == "neg":
        return f"{'-' if latex else '−'}{arguments[0]}"
    return (_LATEX if latex else _UNICODE)[operator].join(arguments)


def _escaped(name: str) -> str:
    return name.replace("_", "\\_")


def _symbol(name: str) -> str:
    """`m1` as m_{1}."""
    letters = name.rstrip("0123456789")
    digits = name[len(letters) :]
    letters = _escaped(letters)
    return f"{letters}_{{{digits}}}" if digits else letters


def _latex_index(index: Affine) -> str:
    text = ""
    for term in index.terms:
        factors = [_symbol(n) for n in ((term.variable,) if term.variable else ()) + term.symbols]
        if abs(term.coefficient) != 1 or not factors:
            factors.insert(0, str(abs(term.coefficient)))
        sign = "-" if term.coefficient < 0 else "+" if text else ""
        text += sign + " ".join(factors)
    return text or "0"


def _latex_access(access: Access) -> str:
    name = (
        _symbol(access.tensor)
        if len(access.tensor.rstrip("0123456789")) == 1
        else (f"\\mathit{{{_escaped(access.tensor)}}}")
    )
    if not access.indices:
        return name
    indices = [*map(_latex_index, access.indices)]
    for gather in access.gathers:
        indices[gather.position] = _latex_gather(gather)
    return f"{name}_{{{', '.join(indices)}}}"


def _latex_gather(gather: Gather) -> str:
    text = ""
    for factor, table in gather.tables:
        times = "" if factor == Affine.of_number(1) else f"{_latex_index(factor)} "
        text += ("+" if text else "") + times + _latex_access(table)
    offset = _latex_index(gather.offset) if gather.offset.terms else ""
    return text + ("" if not offset or offset.startswith("-") else "+") + offset


def _data_condition(condition: DataCondition, latex: bool) -> str:
    names = _COMPARE_LATEX if latex else _COMPARE
    comparison = names.get(condition.comparison, condition.comparison)
    return f"{_node(condition.left, latex)} {comparison} {_node(condition.right, latex)}"


def _latex_condition(condition: Condition) -> str:
    comparison = _COMPARE_LATEX.get(condition.comparison, condition.comparison)
    return f"{_latex_index(condition.left)} {comparison} {_latex_index(condition.right)}"
