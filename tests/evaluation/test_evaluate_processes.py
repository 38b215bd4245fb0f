"""An evaluation over two processes gives each of them the results of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from evaluation_models import data, linear, weights
from jaxrobust.attacks import pgd
from jaxrobust.evaluation import evaluate
from jaxrobust.threats import Linf

def run(devices):
    attack = pgd(Linf(0.03), step_size=0.01, steps=3)
    options = dict(batch_size=8, keep_examples=True, devices=devices)
    return evaluate(jax.random.key(0), model, weights(), data(), {"pgd": attack}, **options)

model, _ = linear()
assert jax.device_count() == 4
over_both, alone = run(None), run(jax.local_devices())
np.testing.assert_array_equal(over_both.clean, alone.clean)
np.testing.assert_array_equal(over_both.attacks["pgd"].robust, alone.attacks["pgd"].robust)
difference = over_both.attacks["pgd"].examples - alone.attacks["pgd"].examples
np.testing.assert_allclose(difference, 0, atol=1e-6)
print("robust", over_both.attacks["pgd"].robust.sum())
"""


@pytest.mark.slow
def test_two_processes_see_the_whole_report():
    here = Path(__file__).resolve().parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent.parent)]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    robust = [out[out.index("robust ") :].split()[1] for out, _ in outputs]
    assert robust[0] == robust[1]
    assert 0 < int(robust[0]) < 29
    assert "100%" in outputs[0][0]  # the bars are process 0's
    assert "100%" not in outputs[1][0]
