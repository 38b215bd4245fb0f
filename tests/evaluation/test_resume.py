"""Evaluations that are interrupted, and folders that belong to another one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_models import data, linear, weights

from jaxrobust import losses
from jaxrobust.attacks import fgsm, pgd, targeted
from jaxrobust.evaluation import curve, evaluate, resume
from jaxrobust.fingerprint import describe, fingerprint
from jaxrobust.threats import L2, Linf

KEY = jax.random.key(0)
MODEL = linear()[0]  # one object: its programs are compiled once for the whole file
WEAK, STRONG = fgsm(Linf(0.02)), targeted(fgsm(Linf(0.03)))
SUITE = {"weak": WEAK, "strong": STRONG}


def run(folder, suite=SUITE, *, key=KEY, variables=None, examples=None, **options):
    options = {"batch_size": 8, "progress": False, "devices": jax.devices()[:1], **options}
    variables = weights() if variables is None else variables
    return evaluate(key, MODEL, variables, examples or data(), suite, folder=folder, **options)


@pytest.fixture
def passes(monkeypatch):
    """Counts the batches that are attacked; dies like a killed run at the one numbered `kill`."""

    class Passes:
        count, kill = 0, None

    def counted(job, **options):
        if Passes.count == Passes.kill:
            raise KeyboardInterrupt
        Passes.count += 1
        return real(job, **options)

    real = resume.attack_pass
    monkeypatch.setattr(resume, "attack_pass", counted)
    return Passes


def assert_same(one, other):
    np.testing.assert_array_equal(one.clean, other.clean)
    assert list(one.attacks) == list(other.attacks)
    for name, a in one.attacks.items():
        b = other.attacks[name]
        for field in ("robust", "inside", "norm", "margin"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        assert (a.forwards, a.backwards) == (b.forwards, b.backwards)
        assert (a.examples is None) == (b.examples is None)
        if a.examples is not None:
            np.testing.assert_array_equal(a.examples, b.examples)


# Killed in the second attack: the first has 4 batches, or 3 of the examples predicted rightly.
@pytest.mark.parametrize(("survivors", "kill"), [(False, 5), (True, 3)])
def test_an_interrupted_run_repeats_one_batch_and_ends_as_an_undisturbed_one(
    tmp_path, passes, survivors, kill
):
    options = {"survivors": survivors, "keep_examples": True}
    whole = run(None, **options)
    passes.count, passes.kill = 0, kill
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **options)
    passes.kill = None
    assert_same(run(tmp_path, **options), whole)
    batches = sum(a.timing.batches for a in whole.attacks.values())
    assert passes.count == batches > kill
    again = run(tmp_path, **options)
    assert_same(again, whole)
    assert passes.count == batches
    # The times are those of the batches when they ran, not of reading them.
    assert all(a.timing.first > 0 for a in again.attacks.values())


def test_attacks_may_be_added_and_only_what_they_change_is_repeated(tmp_path, passes):
    run(tmp_path, {"weak": WEAK}, survivors=True)
    alone = passes.count
    added = run(tmp_path, survivors=True)
    assert passes.count == alone + added.attacks["strong"].timing.batches
    assert_same(added, run(None, survivors=True))
    # Before the weak attack instead of after it, the strong one sees other examples.
    turned = dict(reversed(SUITE.items()))
    assert_same(run(tmp_path, turned, survivors=True), run(None, turned, survivors=True))


def test_points_that_were_not_kept_are_found_again(tmp_path, passes):
    run(tmp_path, {"weak": WEAK})
    kept = run(tmp_path, {"weak": WEAK}, keep_examples=True)
    assert passes.count == 8
    assert_same(kept, run(None, {"weak": WEAK}, keep_examples=True))
    assert run(tmp_path, {"weak": WEAK}).attacks["weak"].examples is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variables": weights(seed=3)}, r"weights: '\w+' there, '\w+' here"),
        ({"examples": data(28)}, r"data.examples: 29 there, 28 here"),
        ({"examples": data(seed=2)}, r"\(data.fingerprint: "),
        ({"key": jax.random.key(1)}, r"attacks.weak.key: "),
        ({"batch_size": 4}, r"batch_size: 8 there, 4 here"),
        ({"metadata": {"model": "b"}}, r"metadata.model: 'a' there, 'b' here"),
        (
            {"suite": {"weak": fgsm(Linf(0.05)), "strong": STRONG}},
            r"attacks.weak.threat.radius: 0.02 there, 0.05 here; attacks.weak.step_size: ",
        ),
        ({"suite": {"strong": targeted(fgsm(Linf(0.03)), targets=1)}}, r"targets: None there, 1"),
    ],
)
def test_a_folder_of_another_evaluation_is_refused_by_what_differs(
    tmp_path, passes, changes, message
):
    run(tmp_path, metadata={"model": "a"})
    passes.count = 0
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **{"metadata": {"model": "a"}, **changes})
    assert passes.count == 0
    run(tmp_path, metadata={"model": "a"})
    assert passes.count == 0  # the refusal left the folder as it was


def test_attacks_that_may_hide_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'mine' cannot be resumed: .*module-level"):
        run(tmp_path, {"mine": lambda key, f, x, y: WEAK(key, f, x, y)})
    with pytest.raises(ValueError, match="cannot be resumed"):
        run(tmp_path, {"mine": pgd(Linf(0.1), step_size=0.1, steps=1, loss=lambda z, y: z[y])})
    assert not (tmp_path / resume.IDENTITY).exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"success": np.zeros(3, bool)}, r"'success' has shape \(3,\) in a batch of shape \(8,\)"),
        ({"success": np.zeros(8)}, "'success' holds float64"),
        ({"norm": np.zeros((8, 1))}, r"'norm' has shape \(8, 1\)"),
        ({"norm": np.zeros(8, np.complex64)}, "'norm' holds complex64"),
        ({"norm": np.full(8, np.nan)}, "'norm' is NaN"),
        ({"margin": np.full(8, "a")}, "'margin' cannot be read .*must hold numbers"),
        ({"seconds": np.nan}, "'seconds' is nan"),
        ({"seconds": np.zeros(2)}, r"'seconds' has shape \(2,\)"),
        ({"forwards": np.full(8, -1)}, "'forwards' holds negative counts"),
        ({"index": np.zeros((8, 1), int)}, "in a batch of shape"),
        ({"loss": None}, "'loss' is missing"),
        ({"x": np.zeros((3, 2), np.float32)}, r"'x' has shape \(3, 2\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_batches_of_other_shapes_and_types_are_refused(tmp_path, change, told):
    run(tmp_path, keep_examples=True)
    file = next(tmp_path.glob("weak-*/00000008.npz"))
    with np.load(file) as saved:
        held = {**saved, **change}
    np.savez(file, **{name: value for name, value in held.items() if value is not None})
    with pytest.raises(ValueError, match=rf"00000008\.npz is broken .*{told}.*delete it"):
        run(tmp_path, keep_examples=True)


def test_broken_folders_say_what_to_do(tmp_path):
    run(tmp_path)
    file = next(tmp_path.glob("weak-*/00000008.npz"))
    content = file.read_bytes()
    file.write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"00000008.npz is broken .*delete it"):
        run(tmp_path)
    file.unlink()
    assert_same(run(tmp_path), run(None))
    (tmp_path / resume.IDENTITY).write_text("[]")
    with pytest.raises(ValueError, match="not the identity of an evaluation"):
        run(tmp_path)
    (tmp_path / resume.IDENTITY).unlink()
    with pytest.raises(ValueError, match="nothing tells whose they are"):
        run(tmp_path)


def test_names_that_files_cannot_have_or_not_both_stay_apart(tmp_path):
    suite = {"a/b": WEAK, "A/B": STRONG, "a b": fgsm(Linf(0.001))}
    run(tmp_path, suite)
    assert_same(run(tmp_path, suite), run(None, suite))


def test_a_curve_resumes_and_takes_more_radii(tmp_path, passes):
    def draw(radii, folder=tmp_path):
        options = {"batch_size": 8, "devices": jax.devices()[:1], "progress": False}
        task = (KEY, MODEL, weights(), data())
        return curve(*task, lambda r: targeted(fgsm(Linf(r))), radii, folder=folder, **options)

    passes.kill = 6
    with pytest.raises(KeyboardInterrupt):
        draw([0.01, 0.03])
    passes.kill = None
    draw([0.01, 0.03])
    assert passes.count == 8
    found = draw([0.01, 0.02, 0.03])
    assert passes.count == 12
    np.testing.assert_array_equal(found.robust, draw([0.01, 0.02, 0.03], None).robust)


def test_fingerprints_see_values_types_shapes_and_places():
    x = np.arange(6, dtype=np.float32)
    trees = [
        {"a": x, "b": x + 1},
        {"a": x + 1, "b": x},
        {"a": x, "c": x + 1},
        {"a": x.reshape(2, 3), "b": x + 1},
        {"a": x.view(np.int32), "b": x + 1},
        {"a": x.reshape(2, 3).T, "b": x + 1},
    ]
    assert len({fingerprint(tree) for tree in trees}) == len(trees)
    assert fingerprint(trees[0]) == fingerprint(jax.tree.map(jnp.asarray, trees[0]))
    assert fingerprint(jax.random.key(1)) != fingerprint(jax.random.key(2))


def test_descriptions_survive_json_and_tell_settings_apart():
    attacks = [
        pgd(Linf(0.1), step_size=0.1, steps=2),
        pgd(L2(0.1), step_size=0.1, steps=2),
        pgd(Linf(0.1), step_size=0.2, steps=2),
        pgd(Linf(0.1), step_size=0.1, steps=2, loss=losses.margin),
        targeted(pgd(Linf(0.1), step_size=0.1, steps=2)),
    ]
    told = [json.dumps(describe(attack)) for attack in attacks]
    assert len(set(told)) == len(attacks)
    assert all(json.loads(text) == describe(a) for text, a in zip(told, attacks, strict=True))
    as_arrays = pgd(Linf(jnp.float32(0.5)), step_size=np.float64(0.25), steps=2)
    assert describe(as_arrays) == describe(pgd(Linf(0.5), step_size=0.25, steps=2))
