"""What the provable study shows inside networks and along training, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import linear

from experiments.provable import inside_plots, insides, learning
from experiments.provable.learning import Found, Stage
from experiments.provable.subjects import Row, Subject
from jaxrobust.data import Split
from jaxrobust.threats import Linf
from jaxrobust.types import Model, Variables

DRAW = np.random.default_rng(0)
X = DRAW.uniform(0.2, 0.8, (6, 5)).astype(np.float32)
Y = DRAW.integers(0, 3, 6).astype(np.int32)
EPS = 0.05


def hidden(variables: Variables, x: jax.Array, **_: object) -> tuple[jax.Array, tuple]:
    """One hidden layer."""
    inner = jax.nn.relu(x @ variables.params["a"] + variables.params["b"][None])
    return inner @ variables.params["c"], ()


MODEL = Model(lambda key, x: Variables({}), hidden)
PARAMS = {
    "a": jnp.asarray(DRAW.normal(size=(5, 7)), jnp.float32),
    "b": jnp.asarray(DRAW.normal(size=7), jnp.float32),
    "c": jnp.asarray(DRAW.normal(size=(7, 3)), jnp.float32),
}


def subject(params: dict, model: Model = MODEL) -> Subject:
    return Subject(Row("tiny", EPS, "dual"), 0, model, Variables(params), Linf(EPS), Split(X, Y))


def test_losses_and_errors_of_a_linear_classifier_are_closed_forms() -> None:
    w = DRAW.normal(size=(5, 3)).astype(np.float32)
    b = DRAW.normal(size=3).astype(np.float32)
    row = learning.watch(linear(3), {"test": Split(X, Y)}, Linf(EPS), None)(
        Variables({"w": jnp.asarray(w), "b": jnp.asarray(b)})
    )
    z = np.float64(X @ w + b)
    gaps = z - z[np.arange(6), Y][:, None]
    reach = EPS * np.abs(w[:, None, :] - w[:, :, None]).sum(axis=0)  # |w_j - w_k| in l1
    worst = gaps + reach[:, Y].T
    worst[np.arange(6), Y] = 0
    loss = np.log(np.exp(gaps).sum(axis=1)).mean()
    robust = np.log(np.exp(worst).sum(axis=1)).mean()
    others = np.arange(3)[None] != Y[:, None]
    assert row["test loss"] == pytest.approx(loss, rel=1e-4)
    assert row["test robust loss"] == pytest.approx(robust, rel=1e-4)
    assert row["test error"] == pytest.approx(100 * np.mean(((gaps >= 0) & others).any(axis=1)))
    wrong = ((worst >= 0) & others).any(axis=1)
    assert row["test robust error"] == pytest.approx(100 * np.mean(wrong))


def test_epochs_share_one_program() -> None:
    traced = []

    def counted(variables: Variables, x: jax.Array, **_: object) -> tuple[jax.Array, tuple]:
        traced.append(x.shape)
        return hidden(variables, x)

    model = Model(lambda key, x: Variables({}), counted)
    validate = learning.watch(model, {"test": Split(X, Y)}, Linf(EPS), None)
    validate(Variables(PARAMS))
    seen = len(traced)
    validate(Variables({**PARAMS, "b": PARAMS["b"] + 1}))
    assert len(traced) == seen > 0


def test_a_cascades_error_counts_what_its_rule_does_not_prove() -> None:
    labels, proofs = DRAW.integers(0, 2, (3, 40)), DRAW.random((3, 40)) < 0.5
    y = DRAW.integers(0, 2, 40)
    blank = np.zeros(40)
    found = [Found(blank, blank, blank, blank, *pair) for pair in zip(labels, proofs, strict=True)]
    right = 0
    for i in range(40):
        # published: the label of the first stage that proves its own
        first = next((s for s in range(3) if proofs[s, i]), None)
        right += first is not None and labels[first, i] == y[i]
    assert learning.cascade_error(found, y) == pytest.approx(100 - 100 * right / 40)


def test_units_are_counted_by_the_sign_of_their_bounds() -> None:
    layers = insides.activations(subject(PARAMS))
    a, b = np.float64(PARAMS["a"]), np.float64(PARAMS["b"])
    middle, reach = X @ a + b, EPS * np.abs(a).sum(axis=0)
    off, on = middle + reach < 0, middle - reach > 0
    expected = np.stack([off, ~off & ~on, on], axis=-1).mean(axis=1)
    assert len(layers) == 1
    np.testing.assert_allclose(layers[0], expected, atol=1e-6)
    assert 0 < expected[:, 1].mean() < 1
    (row,) = insides.activation_rows({"dual": layers})
    assert row["crossing"] == pytest.approx(100 * expected[:, 1].mean(), rel=1e-4)
    assert sum(row[kind] for kind in insides.SIGNS) == pytest.approx(100)


def test_the_dual_lies_below_the_program_and_meets_it_where_no_unit_crosses() -> None:
    slack = insides.slack(subject(PARAMS), 4)
    assert slack.shape == (8,)
    assert slack.min() > -1e-4
    assert slack.max() > 1e-3
    plain = {**PARAMS, "b": PARAMS["b"] + 50}  # every unit is on: both are exact
    assert np.abs(insides.slack(subject(plain), 4)).max() < 1e-3
    (row,) = insides.slack_rows({"dual": np.asarray([0.0, 0.01, 0.02])})
    assert (row["median"], row["largest"]) == pytest.approx((1.0, 2.0))


def test_sparse_weights_and_filters_are_counted() -> None:
    kernel = np.ones((2, 2, 1, 4), np.float32)
    kernel[..., 0] = 0.001
    kernel[0, 0, 0, 1] = 0
    params = {"conv1": {"kernel": kernel}, "dense": {"kernel": np.ones((3, 2))}}
    (row,) = insides.sparsity([subject(params)])
    assert row["conv1 weights"] == pytest.approx(100 * 5 / 16)
    assert row["conv1 filters"] == pytest.approx(25)
    assert list(insides.kernels(subject(params))) == ["conv1"]
    figure = inside_plots.filters({"standard": kernel, "dual": kernel}, most=3)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 6
    np.testing.assert_array_equal(shown[1].images[0].get_array(), kernel[:, :, 0, 1])


HISTORY = [
    {"epoch": e, **{f"{s} {r}{k}": float(e) for s in ("train", "test") for r in ("", "robust ")
                    for k in ("loss", "error")}}
    for e in (1, 2)
]  # fmt: skip


def test_tables_and_figures_hold_the_histories() -> None:
    late = [*HISTORY[:1], {**HISTORY[1], "test robust error": 5.0}]
    rows = learning.gaps({"exact": late})
    assert (rows[0]["gap"], rows[0]["epochs"]) == (3.0, 2)
    loss, error = inside_plots.learning({"dual": late}).axes
    assert len(loss.lines) == len(error.lines) == 4
    np.testing.assert_allclose(error.lines[3].get_ydata(), [1, 5])
    train, test = inside_plots.projections({"exact": late, "k 2": HISTORY}).axes
    np.testing.assert_allclose(test.lines[0].get_ydata(), [1, 5])
    np.testing.assert_allclose(train.lines[1].get_ydata(), [1, 2])
    (panel,) = inside_plots.cascade([Stage([9.0, 8.0], [7.0, 6.0]), Stage([5.0], [4.0])]).axes
    drawn = [line.get_xydata().tolist() for line in panel.lines]
    assert [[3.0, 5.0]] in drawn, "the second stage goes on where the first ended"
    (left, right) = inside_plots.slack({"a": np.asarray([0.0, 0.1]), "b": np.zeros(2)}).axes
    assert left.get_xlim() == right.get_xlim()
    figure = inside_plots.activations({"dual": [np.full((4, 3), 1 / 3)]})
    assert [len(axis.patches) for axis in figure.axes] == [150]
