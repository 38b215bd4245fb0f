"""Branch and bound against integer programs, brute force over patterns and grids of points."""

import functools

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_duals_exact import brute_force

from jaxrobust import duals
from jaxrobust.duals import branch_and_bound, branching, kinks, search, subdomains, tightening
from jaxrobust.duals.counterexamples import judged
from jaxrobust.duals.matrices import unboxed
from jaxrobust.duals.specification import Property, margins
from jaxrobust.threats import L1, L2, Linf, Union

verify = functools.partial(duals.verify, split="units")
SIZES = (3, 8, 8, 3)
"""Two hidden layers of 8 units, three classes."""


def network(parameters, x):
    return cases.mlp(jax.nn.relu, parameters)(x)


def leaky(parameters, x):
    return cases.mlp((lambda z: jax.nn.leaky_relu(z, 0.1), jnp.abs), parameters)(x)


def bent(parameters, x):
    """Clips and maxima of pairs."""
    return cases.mlp((lambda z: jnp.clip(z, -0.3, 0.6), cases.ACTIVATIONS["maximum"]), parameters)(
        x
    )


def partial(seed, sizes=SIZES, apply=network):
    """A network whose weights are arguments: one compiled program for all seeds."""
    return jax.tree_util.Partial(apply, cases.weights(seed, sizes, np.float32))


def example(seed, size=3):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(0.1, 0.9, size), jnp.float32)


def rows_of(y, K=3):
    return np.delete(np.eye(K)[y] - np.eye(K), y, axis=0).astype(np.float32)


def check_decisions(f, x, rows, exact, threat, *, apart, off=1e-5, **options):
    """Just above the exact least value of its rows a property is verified, just below falsified."""
    for offset, status in ((apart, "verified"), (-apart, "falsified")):
        goal = Property(rows, np.asarray(offset - exact, np.float32))
        found = duals.verify(f, x, goal, threat, **{"batch_size": 8, "split": "units"} | options)
        assert found.status == status, (found, exact)
        # the bounds enclose the exact value, which is `offset`
        assert min(found.lower, apart) <= offset + off
        assert found.upper >= offset - off
        around = threat if options.get("boxed", True) else unboxed(threat)
        point = judged(f, x, around, goal, jnp.asarray(found.witness))
        assert point.inside
        assert float(point.value) == pytest.approx(found.upper, abs=1e-6)


def check_against_programs(apply, seeds, examples):
    """Linf and L1, with and without the pixel box."""
    for seed in seeds:
        f = partial(seed, apply=apply)
        threat, boxed = (Linf(0.3), L1(0.5))[seed % 2], seed % 4 < 2
        x = jnp.stack([example(100 * seed + i) for i in range(examples)])
        y = jnp.argmax(jax.vmap(f)(x), axis=1)
        for one, label, exact in zip(
            x, y, duals.exact_margins(f, x, y, threat, boxed=boxed), strict=True
        ):
            label = int(label)
            least = np.delete(exact.lower, label)
            check_decisions(f, one, rows_of(label), least, threat, apart=1e-3, boxed=boxed)


@pytest.mark.slow
def test_decisions_are_those_of_integer_programs():
    check_against_programs(network, range(4), examples=5)


@pytest.mark.slow
def test_300_decisions_are_those_of_integer_programs():
    check_against_programs(network, range(4, 14), examples=8)
    check_against_programs(leaky, range(4), examples=9)
    check_against_programs(bent, range(4), examples=9)


@pytest.mark.slow
@pytest.mark.parametrize("threat", [Linf(0.4), L1(0.6)])
def test_decisions_are_those_of_brute_force_over_patterns(threat):
    sizes = (2, 3, 3, 3)
    for seed in (37,):
        f, x = partial(seed, sizes), example(seed, 2)
        rows, parameters = rows_of(int(jnp.argmax(f(x)))), cases.weights(seed, sizes, np.float32)
        center = np.asarray(x, float)
        exact = np.array([brute_force(row, center, threat, *parameters) for row in rows])
        check_decisions(f, x, rows, exact, threat, apart=1e-3)


def grid(threat, x, count=300):
    """Points of the set around `x` in two dimensions, those of its boundary among them."""
    side = np.linspace(0, 1, count)
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    angles = np.linspace(0, 2 * np.pi, 4000)
    circle = np.asarray(x) + 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
    points = jnp.asarray(np.concatenate([points, circle]), jnp.float32)
    return jax.vmap(lambda z: threat.project(x, z))(points)


@pytest.mark.slow
@pytest.mark.parametrize("threat", [L2(0.35), Union((Linf(0.2), L1(0.35)))])
def test_decisions_of_other_balls_are_those_of_a_grid(threat):
    sizes = (2, 6, 3)
    for seed in (0, 3):
        f, x = partial(seed, sizes), example(seed, 2)
        rows = rows_of(int(jnp.argmax(f(x))))
        exact = (jax.vmap(f)(grid(threat, x)) @ rows.T).min(axis=0)
        check_decisions(f, x, rows, np.asarray(exact), threat, apart=1e-2, off=5e-3)


@pytest.mark.slow
def test_clauses_hold_where_one_of_their_rows_does():
    """Each row of a clause is negative somewhere, yet never all of them at once."""
    sizes, threat, clauses = (2, 6, 3), Linf(0.4), np.array([0, 1, 0, 1], np.int32)
    for seed in range(3):
        f, x = partial(seed, sizes), example(seed, 2)
        A = np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
        values = np.asarray(jax.vmap(f)(grid(threat, x)) @ A.T)
        best = np.stack([values[:, clauses == k].max(axis=1) for k in (0, 1)]).min(axis=1)
        # the least of the largest row over the set, clause by clause
        least = best[clauses]
        assert np.any(values.min(axis=0) < least - 0.1)
        for offset, status in ((2e-2, "verified"), (-2e-2, "falsified")):
            goal = Property(A, (offset - least).astype(np.float32), clauses)
            assert verify(f, x, goal, threat, batch_size=8).status == status


@pytest.mark.slow
def test_labels_ask_for_margins():
    f, x = partial(0), example(0)
    y = int(jnp.argmax(f(x)))
    for wrong in set(range(3)) - {y}:
        assert verify(f, x, wrong, Linf(0.01)).status == "falsified"
    by_label = verify(f, x, y, Linf(0.01))
    assert by_label.status == "verified"
    assert by_label[:2] == verify(f, x, margins(y, 3), Linf(0.01))[:2]


# soundness of what a single subdomain is told


def excess(seed, apply=network):
    """By how much bounds of random subdomains, multipliers and slopes exceed sampled values."""
    f, x, threat = partial(seed, apply=apply), example(seed), Linf(0.3)
    goal = jax.tree.map(jnp.asarray, margins(int(jnp.argmax(f(x))), 3))
    rng = np.random.default_rng(seed)

    @jax.jit
    def sampled(points):
        where = duals.prepare(f, x, threat, boxed=True)

        def one(z):
            values = duals.run(where.graph, z, kinks.apply)
            sources = subdomains.flat([values[n.source.id] for n in where.graph.nodes])
            return sources, goal.A @ values[where.graph.output.id] + goal.b

        return jax.vmap(one)(points)

    def bounds(root, domains, own):
        where = duals.prepare(f, x, threat, boxed=True)

        def one(domain, own):
            own = subdomains.feasible(root, goal, domain, own)
            return subdomains.bound(where, root, goal, domain, own).lower

        return jax.vmap(one)(domains, own)

    root, _ = branching.begin(
        f, x, threat, goal, jnp.arange(2), methods=duals.METHODS, chunk=None, steps=1
    )
    points = jax.vmap(lambda k: threat.sample(k, x))(jax.random.split(jax.random.key(0), 4000))
    sources, values = map(np.asarray, sampled(points))
    region = subdomains.whole(root, jnp.int32(0))
    parts, kept = [], []
    for _ in range(60):
        lower, upper = np.array(region.lower), np.array(region.upper)
        clause = rng.integers(2)
        # the split that a sampled point lies in
        center = sources[rng.integers(len(sources))]
        for unit in rng.permutation(np.flatnonzero(root.bends))[: rng.integers(1, 5)]:
            cut = 0.0 if lower[unit] < 0 < upper[unit] else (lower[unit] + upper[unit]) / 2
            if center[unit] < cut:
                upper[unit] = cut
            else:
                lower[unit] = cut
        parts.append(subdomains.Domain(lower, upper, np.int32(clause)))
        inside = np.all((sources >= lower) & (sources <= upper), axis=1)
        kept.append(values[inside, clause].min())
    own = subdomains.Multipliers(
        rng.uniform(size=(60, len(lower))).astype(np.float32),
        rng.normal(size=(60, len(lower))).astype(np.float32),
        np.ones((60, 2), np.float32),
    )
    domains = jax.tree.map(lambda *v: jnp.stack(v), *parts)
    return np.asarray(jax.jit(bounds)(root, domains, own)) - np.array(kept)


@pytest.mark.slow
@pytest.mark.parametrize("apply", [network, bent])
def test_any_multipliers_are_sound(apply):
    assert excess(1, apply).max() <= 0


def lost_violations(seed, apply=network):
    """How far violations lie outside of boxes that are to hold all of them."""
    f, x, threat = partial(seed, apply=apply), example(seed), Linf(0.3)
    points = jax.vmap(lambda k: threat.sample(k, x))(jax.random.split(jax.random.key(0), 4000))
    rows = rows_of(int(jnp.argmax(f(x))))
    # the share of violations is small, and so is how far a bound may stay behind
    least = np.quantile(jax.vmap(f)(points) @ rows.T, 0.02, axis=0).astype(np.float32)
    goal = jax.tree.map(jnp.asarray, Property(rows, -least))
    where = duals.prepare(f, x, threat, boxed=True)

    def one(z):
        values = duals.run(where.graph, z, kinks.apply)
        return subdomains.flat([values[n.source.id] for n in where.graph.nodes])

    sources = np.asarray(jax.vmap(one)(points))
    violated = np.asarray(jax.vmap(f)(points) @ rows.T) <= least
    root, found = branching.begin(
        f, x, threat, goal, jnp.arange(2), methods=duals.METHODS, chunk=None, steps=5
    )
    assert np.all(found.lower <= 0)
    far, shrunk = -np.inf, 0.0
    for clause in (0, 1):
        domain = region = subdomains.whole(root, jnp.int32(clause))
        own = jax.tree.map(lambda v, k=clause: v[k], found.duals)
        units = jnp.asarray(np.flatnonzero(root.bends)[:8])
        for _ in range(3):
            domain, _ = tightening.tighten(f, x, threat, goal, root, domain, own, units)
        domain = jax.tree.map(np.asarray, domain)
        inside = sources[violated[:, clause]]
        assert not any(np.isnan(side).any() for side in domain[:2])
        far = max(far, (domain.lower - inside).max(), (inside - domain.upper).max())
        widths = [np.sum(d.upper - d.lower) for d in (region, domain)]
        shrunk = max(shrunk, 1 - widths[1] / widths[0])
    return far, shrunk


@pytest.mark.slow
@pytest.mark.parametrize("apply", [network, bent])
def test_tightened_boxes_hold_every_violation(apply):
    found = [lost_violations(seed, apply) for seed in range(3)]
    assert max(far for far, _ in found) <= 0
    assert max(shrunk for _, shrunk in found) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["the cut's other side", "a property too strict"])
def test_boxes_without_some_violations_are_seen(fault, monkeypatch):
    if fault == "a property too strict":
        mixed = tightening.mixed

        def raised(*args):
            row, offset = mixed(*args)
            return row, offset + 1

        monkeypatch.setattr(tightening, "mixed", raised)
    else:
        cut = tightening._cut

        def mirrored(*args):
            (slope, most), short = cut(*args)
            return tightening.Cut(-slope, most), short

        monkeypatch.setattr(tightening, "_cut", mirrored)
    # compiled anew, with the fault
    tighten = tightening.tighten.__wrapped__
    monkeypatch.setattr(tightening, "tighten", jax.jit(lambda *args: tighten(*args)))
    assert max(lost_violations(seed)[0] for seed in range(3)) > 0.01


def wrong_sign(total, z, box, mu, raised):
    value = total.value
    hold(total, z, box, mu, raised)
    total.value = 2 * value - total.value


def wrong_end(total, z, box, mu, raised):
    return hold(total, z, subdomains.Box(box.upper, box.lower, box.noise), mu, raised)


hold = subdomains._hold


@pytest.mark.parametrize("fault", [wrong_sign, wrong_end])
def test_a_wrong_multiplier_is_seen(fault, monkeypatch):
    monkeypatch.setattr(subdomains, "_hold", fault)
    assert excess(1).max() > 0.01


def decisions(instances, **options):
    """Without PGD, so that branch and bound alone has to find violations."""
    found = []
    for f, x, goal in instances:
        found.append(verify(f, x, goal, Linf(0.3), batch_size=8, **options).status)
    return found


def blind(key, f, x, threat, goal, *, steps, restarts):
    return judged(f, x, threat, goal, x)


def violated(seeds):
    """Instances with a small violation each, and how small."""
    instances = []
    for seed in seeds:
        f, x = partial(seed), example(seed)
        y = int(jnp.argmax(f(x)))
        points = jax.vmap(lambda k, x=x: Linf(0.3).sample(k, x))(
            jax.random.split(jax.random.key(1), 4000)
        )
        least = (jax.vmap(f)(points) @ rows_of(y).T).min(axis=0)
        instances.append((f, x, Property(rows_of(y), -np.asarray(least) - 1e-3)))
    return instances


@pytest.mark.slow
def test_a_lost_half_is_seen(monkeypatch):
    monkeypatch.setattr(branch_and_bound, "attacked", blind)
    instances = violated(range(12))
    assert decisions(instances) == ["falsified"] * 12
    file = search.Search._file
    for lost in (0, 1):

        def forgetful(self, clause, splits, least, found, lost=lost):
            self.turn = getattr(self, "turn", 0) + 1
            if splits and self.turn % 2 == lost:
                return
            file(self, clause, splits, least, found)

        monkeypatch.setattr(search.Search, "_file", forgetful)
        assert "verified" in decisions(instances)


def test_a_point_that_only_the_bound_believes_in_is_no_witness(monkeypatch):
    """Every counterexample is replayed on the network."""
    f, x = partial(0), example(0)
    found = verify(f, x, int(jnp.argmax(f(x))), Linf(0.01))
    assert found.status == "verified"
    look = search.Search._look

    def boastful(self, found):
        look(self, found._replace(worst=found.worst - 100))

    monkeypatch.setattr(search.Search, "_look", boastful)
    assert verify(f, x, int(jnp.argmax(f(x))), Linf(0.01)).status == "verified"


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 64])
def test_the_size_of_batches_changes_no_verdict(batch_size):
    for seed in range(4):
        f, x = partial(seed), example(seed)
        y = int(jnp.argmax(f(x)))
        for radius in (0.1, 0.3):
            found = [
                verify(f, x, y, Linf(radius), batch_size=size).status for size in (8, batch_size)
            ]
            assert found[0] == found[1] != "unknown"


def test_another_instance_does_not_recompile():
    """Other weights, examples, properties and radii."""
    programs = (branching.begin, branching.halve, branching.improve, tightening.tighten, judged)

    def run(seed, radius):
        (f, x, goal) = violated([seed])[0]
        goal = Property(goal.A, goal.b + 0.02)
        return verify(f, x, goal, Linf(radius), batch_size=8).visited

    assert run(2, 0.3) > 4
    before = [p._cache_size() for p in programs]
    assert all(before)
    for seed, radius in ((1, 0.3), (2, 0.28), (3, 0.3)):
        run(seed, radius)
    assert [p._cache_size() for p in programs] == before


def test_limits_leave_it_unknown():
    (f, x, goal) = violated([2])[0]
    goal = Property(goal.A, goal.b + 0.02)
    full = verify(f, x, goal, Linf(0.3), batch_size=8)
    few = verify(f, x, goal, Linf(0.3), batch_size=8, max_subdomains=10)
    short = verify(f, x, goal, Linf(0.3), batch_size=8, time_limit=1e-9)
    assert (full.status, few.status, short.status) == ("verified", "unknown", "unknown")
    assert few.visited < full.visited
    assert few.open
    assert short.lower <= few.lower <= 0 <= full.lower


def test_refusals():
    f, x = partial(0), example(0)
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda x: verify(f, x, 0, Linf(0.1)))(x)
    with pytest.raises(ValueError, match="about 2 outputs, but the network has 3"):
        verify(f, x, Property(np.eye(2), np.zeros(2)), Linf(0.1))
    with pytest.raises(ValueError, match="y=3 is none of 3 classes"):
        verify(f, x, 3, Linf(0.1))
    with pytest.raises(ValueError, match="time_limit must be finite and above 0"):
        verify(f, x, 0, Linf(0.1), time_limit=0)
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        verify(f, x, 0, Linf(0.1), batch_size=0)
    with pytest.raises(ValueError, match="inputs hold 1 NaN"):
        verify(f, x.at[0].set(jnp.nan), 0, Linf(0.1))
    with pytest.raises(ValueError, match=r"A \[rows, K\], b \[rows\]"):
        Property(np.eye(2), np.zeros(3))
    with pytest.raises(ValueError, match="without a gap"):
        Property(np.eye(2), np.zeros(2), np.array([0, 2]))
    with pytest.raises(ValueError, match="must be finite"):
        Property(np.eye(2), np.array([0, np.nan]))
