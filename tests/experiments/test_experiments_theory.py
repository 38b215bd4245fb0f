"""The theorems' study: closed forms, SciPy's answers and brute force."""

import itertools
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import linprog, minimize, minimize_scalar
from scipy.spatial import ConvexHull

from experiments.theory import calibration, constrained, convergence, lifted, tradeoff
from experiments.theory.__main__ import main
from experiments.theory.calibration import SURROGATES
from experiments.theory.config import Config
from jaxrobust import attacks
from jaxrobust.threats import Linf

THETA = np.linspace(0, 1, 21)


@pytest.mark.parametrize("name", SURROGATES)
def test_psi_in_closed_form_is_what_scipy_finds_from_the_loss(name: str) -> None:
    loss = SURROGATES[name]
    np.testing.assert_allclose(
        calibration.psi_transform(loss.phi, THETA), loss.psi(THETA), atol=1e-5
    )
    for theta in (0.2, 0.7):
        eta = (1 + theta) / 2

        def risk(a: float, eta: float = eta) -> float:
            return float(calibration.risk(loss.phi, eta, np.float64(a)))

        best = minimize_scalar(risk, bounds=(0, 30), method="bounded", options={"xatol": 1e-10}).fun
        wrong = minimize_scalar(risk, bounds=(-30, 0), method="bounded", options={"xatol": 1e-10})
        assert loss.optimal(np.float64(eta)) == pytest.approx(best, abs=1e-6)
        # all of these are convex to the left of 0 or fall there: their hull is the difference
        assert min(wrong.fun, risk(0.0)) - best == pytest.approx(float(loss.psi(theta)), abs=1e-6)


def test_psi_is_below_any_excess_and_not_another_function() -> None:
    """Bartlett's theorem itself: psi(excess of the 0-1 risk) <= excess of the phi-risk."""
    scores = np.linspace(-5, 5, 401)
    for loss in SURROGATES.values():
        for eta in (0.1, 0.4, 0.8):
            excess = calibration.risk(loss.phi, eta, scores) - loss.optimal(np.float64(eta))
            regret = np.where(scores * (2 * eta - 1) <= 0, abs(2 * eta - 1), 0)
            assert (loss.psi(regret) <= excess + 1e-9).all()
            # 1.05 psi would be violated: the transform is the largest such function
            assert (1.05 * loss.psi(regret) > excess + 1e-9).any()


def test_the_hull_of_a_function_that_is_not_convex() -> None:
    y = np.sin(7 * THETA) + THETA**2
    found = calibration.convex_hull(THETA, y)
    hull = ConvexHull(np.stack([THETA, y], axis=1))
    for t, value in zip(THETA, found, strict=True):
        # the least height of the hull at t, by a linear program over its corners
        corners = hull.points[hull.vertices]
        program = linprog(
            corners[:, 1], A_eq=np.stack([corners[:, 0], np.ones(len(corners))]), b_eq=[t, 1]
        )
        assert value == pytest.approx(program.fun, abs=1e-9)


def test_errors_of_the_counterexample_by_brute_force() -> None:
    rows = {row["method"]: row for row in tradeoff.table_1()}
    assert tuple(rows["Bayes optimal"].values())[1:] == (0.0, 1.0, 1.0)
    assert tuple(rows["all-one"].values())[1:] == (0.5, 0.0, 0.5)
    rng = np.random.default_rng(0)
    labels, predicted = rng.choice([-1, 1], 40), rng.choice([-1, 1], 40)
    natural = robust = boundary = 0
    for i in range(40):
        near = predicted[max(0, i - 3) : i + 4]
        natural += predicted[i] != labels[i]
        robust += (near != labels[i]).any()
        boundary += predicted[i] == labels[i] and (near != predicted[i]).any()
    found = tradeoff.errors(predicted, labels, 3)
    assert found == pytest.approx((natural / 40, boundary / 40, robust / 40))
    assert found.robust == pytest.approx(found.natural + found.boundary)  # eq. 1


def test_both_theorems_hold_of_the_example_and_close_on_equality() -> None:
    for loss, theta in itertools.product(SURROGATES.values(), (0.1, 0.5, 0.9)):
        slacks = []
        for delta in (0.1, 0.01, 1e-4):
            found = tradeoff.toy(loss, theta, delta)
            # the example by enumeration: two labels at one point, a score that never changes sign
            share = {1: (1 + theta) / 2, -1: (1 - theta) / 2}
            robust = sum(p for y, p in share.items() if -delta * y <= 0)
            assert found.gap == pytest.approx(robust - min(share.values()))
            excess = sum(p * float(loss.phi(np.float64(-delta * y))) for y, p in share.items())

            def risk(a: float, share: dict = share, phi: calibration.Function = loss.phi) -> float:
                return sum(p * float(phi(np.float64(a * y))) for y, p in share.items())

            tight = {"method": "bounded", "options": {"xatol": 1e-10}}
            best = minimize_scalar(risk, bounds=(-30, 30), **tight).fun
            assert found.excess == pytest.approx(excess - best, abs=1e-5)
            assert found.lower <= found.excess
            assert found.gap <= found.bound + 1e-12
            slacks.append((found.excess - found.lower, found.bound - found.gap))
        assert slacks[0] > slacks[1] > slacks[2]
        assert max(slacks[2]) < 3e-4


def test_the_truncated_density_of_a_line_is_a_triangle() -> None:
    """l = b t on [0, 1]: support of length s = sqrt(2 gamma / b), E l = b (1 - s / 3)."""
    cells, slope, gamma = 200_000, 2.0, 0.1
    t = (np.arange(cells) + 0.5) / cells
    found = lifted.truncated(slope * t, gamma * cells)
    length = (2 * gamma / slope) ** 0.5
    assert found.mu == pytest.approx(slope * (1 - length), abs=1e-4)
    assert lifted.expected(slope * t, found) == pytest.approx(slope * (1 - length / 3), abs=1e-4)
    # gamma = the integral of the loss: mu = 0, the over-smoothed case of eq. 7
    whole = lifted.truncated(slope * t, quad(lambda t: slope * t, 0, 1)[0] * cells)
    assert whole.mu == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(whole.shares * cells, 2 * t, atol=1e-4)


def test_no_density_of_that_norm_does_better() -> None:
    losses = np.random.default_rng(1).exponential(size=6)
    for spread in (1.3, 2.5):
        found = lifted.concentrated(losses, spread)
        assert found.shares.sum() == pytest.approx(1)
        assert 6 * np.sum(found.shares**2) == pytest.approx(spread, rel=1e-6)
        best = minimize(
            lambda p: -losses @ p, np.full(6, 1 / 6), method="SLSQP", bounds=[(0, 1)] * 6,
            constraints=[
                {"type": "eq", "fun": lambda p: p.sum() - 1},
                {"type": "ineq", "fun": lambda p, s=spread: s / 6 - p @ p},
            ],
            options={"ftol": 1e-12},
        )  # fmt: skip
        assert lifted.expected(losses, found) == pytest.approx(-best.fun, abs=1e-6)
        np.testing.assert_allclose(found.shares, best.x, atol=1e-4)


def test_the_lifted_problem_closes_on_the_robust_one() -> None:
    problem = lifted.regression(side=5)
    w = np.array([0.7, -0.2])
    assert problem.losses(w).max(axis=1).mean() == pytest.approx(problem.robust(w))
    rows = lifted.proposition_3_1(problem, (1, 4, 25))
    values = [row["least lifted loss"] for row in rows]
    assert values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(values[3], rel=1e-4)
    # each lies below the robust loss of its own model, and that above the least
    assert all(row["robust loss of its model"] >= values[3] - 1e-9 for row in rows)


def test_the_population_is_what_many_samples_say_and_scipy_solves() -> None:
    problem = constrained.Population(np.array([1.0, -0.5]), 1.0, 0.1)
    w = np.array([0.4, 0.3])
    many = constrained.drawn(problem, 400_000, 3)
    assert problem.nominal(w) == pytest.approx(many.nominal(w), rel=0.01)
    assert problem.robust(w) == pytest.approx(many.robust(w), rel=0.01)
    value, nu = problem.solution
    found = minimize(
        problem.robust, 0.9 * problem.w0, method="SLSQP", options={"ftol": 1e-14},
        constraints=[{"type": "ineq", "fun": lambda w: problem.rho - problem.nominal(w)}],
    )  # fmt: skip
    assert value == pytest.approx(found.fun, abs=1e-6)
    # The multiplier is minus the slope of P* in rho.
    above, below = (problem._replace(rho=0.1 + d).solution[0] for d in (1e-5, -1e-5))
    assert nu == pytest.approx(-(above - below) / 2e-5, rel=1e-3)
    assert 0 < nu <= problem.bound
    loose = problem._replace(rho=1.0)
    assert loose.solution[1] == 0
    assert loose.solution[0] == pytest.approx(
        minimize(problem.robust, 0.3 * problem.w0).fun, abs=1e-6
    )


def test_the_empirical_dual_is_the_empirical_primal() -> None:
    problem = constrained.Population(np.array([1.0, -0.5]), 1.0, 0.1)
    sample = constrained.drawn(problem, 100, 0)
    found = constrained.empirical_dual(sample, 0.1, problem.w0)
    primal = minimize(
        sample.robust, 0.9 * problem.w0, method="SLSQP", options={"ftol": 1e-12},
        constraints=[{"type": "ineq", "fun": lambda w: 0.1 - sample.nominal(w)}],
    )  # fmt: skip
    assert found.value == pytest.approx(primal.fun, abs=1e-4)
    assert found.nu * (sample.nominal(found.w) - 0.1) == pytest.approx(0, abs=1e-3)


def test_foscs_problem_meets_its_assumptions() -> None:
    problem = convergence.made(count=10)
    known = convergence.constants(problem, 2.0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        one, two = (v / max(1, np.linalg.norm(v) / 2) for v in rng.normal(size=(2, 2)))
        x, z = problem.x + rng.uniform(-0.3, 0.3, (2, 10, 2))
        tt = np.linalg.norm(
            problem.theta_gradients(one, x) - problem.theta_gradients(two, x), axis=1
        )
        assert (tt <= known.tt * np.linalg.norm(one - two) + 1e-12).all()
        tx = np.linalg.norm(
            problem.theta_gradients(one, x) - problem.theta_gradients(one, z), axis=1
        )
        assert (tx <= known.tx * np.linalg.norm(x - z, axis=1) + 1e-12).all()
        xt = np.linalg.norm(problem.x_gradient(one, x) - problem.x_gradient(two, x), axis=1)
        assert (xt <= known.tx * np.linalg.norm(one - two) + 1e-12).all()
        slope = np.sum(problem.x_gradient(one, z) * (x - z), axis=1)
        far = known.mu / 2 * np.sum((x - z) ** 2, axis=1)
        assert (problem.value(one, x) <= problem.value(one, z) + slope - far + 1e-12).all()
    theta = np.array([0.8, -0.3])
    worst = problem.climbed(theta, convergence.EXACT)
    for i in range(10):
        own = problem._replace(x=problem.x[i : i + 1], y=problem.y[i : i + 1])
        best = minimize(
            lambda x, own=own: -own.value(theta, x[None])[0],
            problem.x[i],
            bounds=[(c - 0.3, c + 0.3) for c in problem.x[i]],
        )
        np.testing.assert_allclose(worst[i], best.x, atol=1e-4)
    rough = problem.climbed(theta, 0.05)
    assert problem.fosc(theta, rough).max() <= 0.05
    # the library's measure of the same points
    ours = [
        attacks.fosc(Linf(0.3, -9.0, 9.0), *map(jnp.float32, (c, z, g)))
        for c, z, g in zip(problem.x, rough, problem.x_gradient(theta, rough), strict=True)
    ]
    np.testing.assert_allclose(ours, problem.fosc(theta, rough), atol=1e-5)
    step = 1e-6 * np.eye(2)
    slope = [(problem.loss(theta + d) - problem.loss(theta - d)) / 2e-6 for d in step]
    np.testing.assert_allclose(problem.gradient(theta), slope, atol=1e-6)


def test_runs_keep_below_the_bounds_of_theorem_1() -> None:
    problem = convergence.made(count=10)
    (row,) = convergence.theorem_1(problem, (0.05,), (60,), (0,))
    assert 0 < row["mean |grad L|^2"] < row["its bound"]
    assert 0 < row["largest gradient error"] < row["bound of Lemma 2"]
    assert row["its bound"] > row["of which delta's part"] > 0
    with pytest.raises(ValueError, match="the theorem asks for at least"):
        convergence.theorem_1(problem, (0.05,), (1,), (0,))
    with pytest.raises(ValueError, match="take more than 1"):
        convergence.constants(problem._replace(kappa=0.5), 2.0)


def test_the_command_writes_tables_and_figures(tmp_path: Path) -> None:
    tables = main(Config(part=("trades",), out=tmp_path))
    assert list(tables) == ["counterexample", "psi", "tightness"]
    for name, rows in tables.items():
        assert json.loads((tmp_path / f"{name}.json").read_text())["rows"] == rows
    for name in ("trades_figure2", "trades_tightness"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": ()}, "nothing to run: --part is empty"),
        ({"part": ("dales",)}, "unknown part 'dales'; did you mean 'dale'"),
        ({"seeds": (1, 1)}, "seeds holds a value twice"),
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
    ],
)
def test_mistakes_name_the_value(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(Config(out=tmp_path, **changes))
