"""Commands that evaluate use every core of a CPU; the user's own choice stands."""

import os
import subprocess
import sys

import pytest

CODE = """
import jax
from experiments.common import cpu_devices
cpu_devices.cores = lambda: 3
cpu_devices.one_device_a_core()
print(jax.local_device_count())
cpu_devices.one_device_a_core()
"""


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 3),
        ({"JAX_NUM_CPU_DEVICES": "2"}, 2),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}, 1),
    ],
)
def test_there_is_a_device_for_each_core_unless_the_user_chose(settings, count):
    hidden = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    told = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**environment, "JAX_PLATFORMS": "cpu", **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [str(count)]


def test_the_number_has_a_limit():
    code = CODE.replace("lambda: 3", "lambda: 64")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["8"]
