"""VNN-LIB files against formulas that are evaluated as they stand, in exact arithmetic."""

import gzip
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import duals
from jaxrobust.duals import VnnlibProblem
from jaxrobust.duals.vnnlib import rounded

INPUTS, OUTPUTS = 2, 3
QUARTERS = st.integers(-12, 12).map(lambda n: Fraction(n, 4))
"""Numbers that float32 holds."""


def declared(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def boxed(low: float, high: float, inputs: int = INPUTS) -> str:
    return "".join(f"(assert (<= X_{i} {high}))(assert (>= X_{i} {low}))" for i in range(inputs))


def read(tmp_path: Path, text: str, **options: Any) -> tuple[VnnlibProblem, ...]:
    path = tmp_path / "a.vnnlib"
    path.write_text(text)
    return duals.read_vnnlib(path, **options)


# A tree of tuples: what is written, and what is evaluated without being read.


def text_of(tree: Any, draw: Any) -> str:
    """The tree with blanks, line ends and comments anywhere, and numbers in several spellings."""
    gap = draw(st.sampled_from([" ", "\n", "  \t", " ; a comment (or not)\n"]))
    if isinstance(tree, Fraction):
        value = float(tree)
        return draw(st.sampled_from([f"{value}", f"{value:.6e}", f"{value:.4f}", f"{value:+.2f}"]))
    if isinstance(tree, str):
        return tree
    return "(" + gap.join(text_of(part, draw) for part in tree) + ")"


def value_of(tree: Any, point: dict[str, Fraction]) -> Any:
    if isinstance(tree, Fraction):
        return tree
    if isinstance(tree, str):
        return point[tree]
    operator, *parts = tree
    values = [value_of(part, point) for part in parts]
    if operator == "and":
        return all(values)
    if operator == "or":
        return any(values)
    if operator == "+":
        return sum(values)
    if operator == "-":
        return -values[0] if len(values) == 1 else values[0] - sum(values[1:])
    if operator == "*":
        return np.prod(values, initial=Fraction(1))
    return values[0] <= values[1] if operator == "<=" else values[0] >= values[1]


CONSTANT = st.one_of(QUARTERS, st.tuples(st.just("-"), QUARTERS))
OUTPUT = st.sampled_from([f"Y_{i}" for i in range(OUTPUTS)])
SCALED = st.one_of(
    OUTPUT,
    st.tuples(st.just("*"), CONSTANT, OUTPUT),
    st.tuples(st.just("*"), OUTPUT, CONSTANT),
    CONSTANT,
)
LINEAR = st.one_of(
    SCALED,
    st.tuples(st.sampled_from(["+", "-"]), SCALED, SCALED),
    st.tuples(st.just("+"), SCALED, st.tuples(st.just("-"), SCALED), SCALED),
    st.tuples(st.just("*"), QUARTERS, st.tuples(st.just("+"), SCALED, SCALED)),
)
COMPARED = st.sampled_from(["<=", ">="])
ABOUT_OUTPUTS = st.tuples(COMPARED, LINEAR, LINEAR)
INPUT = st.sampled_from([f"X_{i}" for i in range(INPUTS)])
ABOUT_INPUTS = st.one_of(
    st.tuples(COMPARED, INPUT, QUARTERS),
    st.tuples(COMPARED, QUARTERS, st.tuples(st.just("-"), INPUT)),
    st.tuples(COMPARED, st.tuples(st.just("*"), st.just(Fraction(2)), INPUT), QUARTERS),
)
FORMULA = st.recursive(
    st.one_of(ABOUT_OUTPUTS, ABOUT_INPUTS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: ("and", *parts)),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: ("or", *parts)),
    ),
    max_leaves=8,
)
POINT = st.tuples(*[QUARTERS] * (INPUTS + OUTPUTS))


@given(st.data(), st.lists(FORMULA, min_size=1, max_size=3), st.lists(POINT, min_size=20))
@settings(deadline=None, max_examples=60)
def test_what_is_read_is_what_is_written(
    tmp_path_factory: pytest.TempPathFactory, data: Any, formulas: list, points: list
) -> None:
    held = "".join(f"(assert {text_of(tree, data.draw)})\n" for tree in formulas)
    path = tmp_path_factory.mktemp("made") / "a.vnnlib"
    path.write_text(declared(INPUTS, OUTPUTS) + boxed(-2, 2) + held)
    problems = duals.read_vnnlib(path)
    assert len({(p.lower.tobytes(), p.upper.tobytes()) for p in problems}) == len(problems)
    names = [f"X_{i}" for i in range(INPUTS)] + [f"Y_{i}" for i in range(OUTPUTS)]
    for point in points:
        named = dict(zip(names, point, strict=True))
        wanted = all(value_of(tree, named) for tree in formulas)
        wanted &= all(abs(v) <= 2 for v in point[:INPUTS])
        x, y = np.float32(point[:INPUTS]), np.float32(point[INPUTS:])
        around = [p for p in problems if (p.lower <= x).all() and (x <= p.upper).all()]
        assert any(p.violated(y) for p in around) == wanted
        by_value = [float(p.goal.value(jnp.asarray(y))) <= 0 for p in around]
        assert by_value == [p.violated(y) for p in around]


@given(st.lists(st.decimals(-9, 9, places=9), min_size=3, max_size=3), st.integers(1, 10**6))
@settings(deadline=None, max_examples=100)
def test_decimal_numbers_are_rounded_outwards(
    tmp_path_factory: pytest.TempPathFactory, ends: list, part: int
) -> None:
    (a, b), c = sorted(ends[:2]), ends[2]
    text = declared(1, 2) + (
        f"(assert (>= X_0 {a:f})) (assert (<= X_0 {b:f}))\n"
        f"(assert (>= Y_0 {c:f})) (assert (<= Y_1 (* {part}e-3 Y_0)))"
    )
    path = tmp_path_factory.mktemp("made") / "a.vnnlib"
    path.write_text(text)
    for dtype in (np.float32, np.float64):
        (problem,) = duals.read_vnnlib(path, dtype=dtype)
        low, high = (Fraction(float(v[0])) for v in (problem.lower, problem.upper))
        assert low <= Fraction(a)
        assert Fraction(b) <= high
        for end, exact in ((problem.lower[0], a), (problem.upper[0], b)):
            assert abs(Fraction(float(end)) - Fraction(exact)) <= abs(
                Fraction(float(np.spacing(end)))
            )
        for end in (problem.lower, problem.upper):
            inside = Fraction(float(problem.inside(end)[0]))
            gap = Fraction(b) - Fraction(a)
            assert gap == 0 or Fraction(a) <= inside <= Fraction(b)
            assert abs(inside - Fraction(float(end[0]))) <= abs(Fraction(float(np.spacing(end[0]))))
        # The rows, up to a factor: -Y_0 + c <= 0 with c at most the exact one, -p/1000 Y_0 + Y_1.
        assert Fraction(float(problem.goal.b[0])) <= Fraction(c)
        row = [Fraction(float(v)) for v in problem.goal.A[1]]
        assert row[0] == -Fraction(part, 1000) * row[1]


@given(st.fractions(), st.booleans())
def test_floats_next_to_a_fraction(value: Fraction, up: bool) -> None:
    for dtype in (np.float32, np.float64):
        found = Fraction(float(rounded(value, dtype, up=up)))
        assert (found >= value) if up else (found <= value)
        step = Fraction(float(np.finfo(dtype).eps)) * abs(value) + Fraction(
            float(np.finfo(dtype).tiny)
        )
        assert abs(found - value) <= step


def test_numbers_below_the_normal_ones_are_not_taken_for_0() -> None:
    tiny = np.finfo(np.float32).tiny
    small = Fraction(1, 10**40)
    ends = [float(rounded(v, np.float32, up=up)) for v in (small, -small) for up in (True, False)]
    assert ends == [tiny, 0, 0, -tiny]
    assert float(rounded(Fraction(10) ** 50, np.float32, up=True)) == np.inf


ACAS = """; ACAS Xu property 2

(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(declare-const Y_2 Real)

; Unscaled Input 0: (55947.691, 60760)
(assert (<= X_0 0.679857769))
(assert (>= X_0 0.6))
(assert (<= X_1 0.5)) ; the second
(assert (>= X_1 -0.5))

; unsafe if coc is maximal
(assert (<= Y_1 Y_0))
(assert (<= Y_2 Y_0))
"""
IMAGES = (
    declared(2, 3)
    + """
(assert (<= X_0 1.0)) (assert (>= X_0 0))
(assert (<= X_1 1.)) (assert (>= X_1 9.2e-1))
(assert (or
    (and (>= Y_0 Y_2))
    (and (>= Y_1 Y_2))
))
"""
)
SYSTEM = (
    declared(2, 1)
    + """
(assert (or
  (and (<= X_0 1) (>= X_0 0) (<= X_1 1) (>= X_1 1) (<= Y_0 0.5))
  (and (<= X_0 3) (>= X_0 2) (<= X_1 1) (>= X_1 1) (>= Y_0 1e1))
  (and (<= X_0 1) (>= X_0 0) (<= X_1 1) (>= X_1 1) (>= Y_0 7.5))
  (and (<= X_0 1) (>= X_0 2) (<= X_1 1) (>= X_1 1) (>= Y_0 7.5))
))
"""
)


def test_files_in_the_styles_of_the_competition(tmp_path: Path) -> None:
    (acas,) = read(tmp_path, ACAS)
    np.testing.assert_allclose(acas.upper, [0.679857769, 0.5])
    assert acas.goal.A.tolist() == [[-1, 1, 0], [-1, 0, 1]]
    assert acas.goal.clauses.tolist() == [0, 0]
    assert acas.violated([3.0, 3.0, 2.0])
    assert not acas.violated([3.0, 3.5, 2.0])

    (images,) = read(tmp_path, IMAGES)
    assert images.goal.A.tolist() == [[-1, 0, 1], [0, -1, 1]]
    assert images.goal.clauses.tolist() == [0, 1]
    assert images.lower.tolist() == pytest.approx([0, 0.92])

    # Equal boxes are one problem, and empty ones none.
    first, second = read(tmp_path, SYSTEM)
    assert [p.lower.tolist() for p in (first, second)] == [[0, 1], [2, 1]]
    assert [first.violated([v]) for v in (0.5, 0.6, 7.5)] == [True, False, True]
    assert [second.violated([v]) for v in (0.5, 9.9, 10)] == [False, False, True]


def test_decimal_coefficients_become_whole_numbers(tmp_path: Path) -> None:
    text = declared(1, 2) + boxed(0, 1, 1)
    (problem,) = read(tmp_path, text + "(assert (<= (+ (* 0.04 Y_0) (* 0.025 Y_1)) 0.3))")
    assert problem.goal.A.tolist() == [[8, 5]]
    assert problem.goal.b.tolist() == [-60]
    (plain,) = read(tmp_path, text + "(assert (<= (+ (* 0.5 Y_0) (* -0.25 Y_1)) 0.25))")
    assert plain.goal.A.tolist() == [[0.5, -0.25]]


def test_a_packed_file_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.vnnlib.gz"
    path.write_bytes(gzip.compress(ACAS.encode()))
    (packed,), (plain,) = duals.read_vnnlib(path), read(tmp_path, ACAS)
    jax.tree.map(np.testing.assert_array_equal, packed[:3], plain[:3])
    path.write_bytes(gzip.compress(ACAS.encode())[:-12])
    with pytest.raises(ValueError, match=r"a\.vnnlib\.gz cannot be read"):
        duals.read_vnnlib(path)


def test_every_output_may_be_a_violation_and_no_input_one(tmp_path: Path) -> None:
    text = declared(1, 1) + boxed(0, 1, 1)
    (problem,) = read(tmp_path, text)
    assert problem.violated([5.0])
    assert float(problem.goal.value(jnp.ones(1))) < 0
    assert read(tmp_path, text + "(assert (>= 1 2))") == ()
    assert read(tmp_path, text + "(assert (>= X_0 1.5))") == ()
    assert problem.violated([np.nan])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(assert (<= X_0 1)", r"line 4: the parenthesis that opens there is never closed"),
        ("\n(assert (<= X_0 1)))", r"line 5: '\)' stands outside of a command"),
        ("(assert (<= X_0 1)) X", "line 4: 'X' stands outside"),
        ("(check (<= X_0 1))", "line 4: 'check' is no command"),
        ("(assert (<= X_7 1))", "line 4: X_7 is not declared"),
        ("(assert (<= X_0 one))", "line 4: 'one' is neither a number nor a variable"),
        ("(assert\n (not (<= X_0 1)))", "line 5: 'not' joins no formulas"),
        ("(assert (< X_0 1))", "line 4: '<' joins no formulas"),
        ("(assert (<= X_0 1 2))", "line 4: <= compares two values, got 3"),
        ("(assert (<= X_0))", "line 4: <= compares two values, got 1"),
        ("(assert (<= (* Y_0 Y_1) 1))", "line 4: a product of two variables"),
        ("(assert (<= (/ Y_0 2) 1))", r"line 4: expressions are made of \+, - and \*, got '/'"),
        ("(assert (<= (+) 1))", r"line 4: expressions are made of"),
        ("(assert (<= X_0 Y_1))", "line 4: a comparison between inputs and outputs"),
        ("(assert (<= (+ X_0 X_0) 1) (<= X_0 1))", "line 4: assert takes one formula, got 2"),
        ("(declare-const X_0 Real)", "line 4: X_0 is declared twice"),
        ("(declare-const X_5 Real)", "line 4: X_5 is declared, but X_1 is not"),
        ("(declare-const Z_5 Real)", r"line 4: declarations are \(declare-const X_0 Real\)"),
        ("(declare-const X_1 Int)", "line 4: declarations are"),
        ("(assert (<= X_0 1e9999))", "line 4: '1e9999' is neither"),
        ("(assert (<= X_0 1/3))", "line 4: '1/3' is neither"),
        ("(assert (<= X_0 2))", "the input X_0 has no lower bound"),
        ("(assert (or (>= X_0 1) (<= Y_0 1)))", "the input X_0 has no upper bound"),
        ("(assert X_0)", "line 4: a formula is .* got 'X_0'"),
        ("", "holds no assertion"),
        ("(assert (<= X_0 1e99)) (assert (>= X_0 0))", "that float32 does not hold"),
        (
            "(assert (<= X_0 1)) (assert (>= X_0 0))\n(assert (<= (* 0.123456789123 Y_0) Y_1))",
            "line 5: float32 does not hold a coefficient",
        ),
        ("(assert " + "(and " * 300 + ")" * 301, "nested more than 200 times"),
    ],
)
def test_mistakes_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, declared(1, 2) + text)


def test_a_comparison_of_two_inputs_is_no_box(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 6: a comparison of several inputs"):
        read(tmp_path, declared(2, 3) + "(assert (<= X_0 X_1))")


def test_too_many_conjunctions_are_refused_before_they_are_made(tmp_path: Path) -> None:
    either = "(assert (or (<= Y_0 1) (<= Y_1 1)))\n"
    with pytest.raises(ValueError, match="a disjunction of 1073741824 conjunctions, more than"):
        read(tmp_path, declared(2, 3) + boxed(0, 1) + 30 * either)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        duals.read_vnnlib(tmp_path / "none.vnnlib")
    path = tmp_path / "a.vnnlib"
    path.write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as text"):
        duals.read_vnnlib(path)
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got int32"):
        read(tmp_path, ACAS, dtype=np.int32)


FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=5))
@settings(deadline=None, max_examples=100)
def test_a_threat_that_is_a_box(ends: list[tuple[float, float]]) -> None:
    lower, upper = np.sort(np.float32(ends), axis=1).T
    x, threat = duals.box_threat(lower, upper)
    assert x.dtype == np.float32
    assert ((lower <= x) & (x <= upper)).all()
    corners = [lower, upper, np.where(np.arange(len(x)) % 2, lower, upper)]
    for far, corner in itertools.product((0.0, 1e7), corners):
        point = np.float32(corner + far * np.sign(corner - x))
        np.testing.assert_array_equal(threat.project(jnp.asarray(x), jnp.asarray(point)), corner)
    assert all(bool(threat.contains(jnp.asarray(x), jnp.asarray(c))) for c in corners)
    # What bounds take it for: sum of the ends of each coordinate.
    top = float(duals.support(threat, jnp.asarray(x), jnp.ones(len(x)), boxed=True))
    exact = sum(float(u) - float(v) for u, v in zip(upper, x, strict=True))
    assert exact <= top <= exact * (1 + 1e-4) + 1e-30


def test_boxes_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="two finite ends of one shape"):
        duals.box_threat([0.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="two finite ends of one shape"):
        duals.box_threat([0.0], [np.inf])
    with pytest.raises(ValueError, match="lower must be at most upper"):
        duals.box_threat(np.float32([1.0]), np.float32([0.0]))
