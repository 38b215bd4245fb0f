"""Strict settings for the whole suite, set before JAX starts."""

import gc
import getpass
import os
import tempfile

import jaxlib.version

# Eight simulated devices; and less time in the compiler, where a suite of small programs spends it.
# Workers inherit them: a second copy would be another key for every program that is kept. Without
# fusion emitters, the suite takes a third less, but must not be at optimization level 0, where they
# give wrong numbers; from 0.11 on, that flag is unknown, which is fatal.
os.environ["XLA_FLAGS"] = " ".join(
    dict.fromkeys(
        [
            *os.environ.get("XLA_FLAGS", "").split(),
            "--xla_force_host_platform_device_count=8",
            "--xla_backend_optimization_level=1",
            "--xla_llvm_disable_expensive_passes=true",
            *["--xla_cpu_use_fusion_emitters=false"]
            * (tuple(map(int, jaxlib.version.__version__.split(".")[:2])) < (0, 11)),
        ]
    )
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# Compiling is most of the suite's time: programs are kept for other workers, tests and runs, on
# this machine, as they are made for its processor. What another worker has half written does not
# load and is compiled anew.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(
    tempfile.gettempdir(), f"jaxrobust-tests-{getpass.getuser()}"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from collections.abc import Iterator
from pathlib import Path

import chex
import jax
import pytest

# the collector would go over the many objects of JAX's traces again and again
gc.set_threshold(200_000, 50, 1_000)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

MAPS = Path("/proc/self/maps")
SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error:::jaxrobust")
    config.addinivalue_line("filterwarnings", "error:::experiments")
    # Said once in a process, and so by whichever test comes first; many search the box on purpose.
    config.addinivalue_line("filterwarnings", "ignore:the radius .* covers the whole pixel box")


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Drops compiled programs at the end of a file, once there are many.

    Each holds several memory mappings, and a process may have 65,530 (`vm.max_map_count`): a worker
    that kept the programs of the whole suite died of a segmentation fault.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def traces_from_zero() -> None:
    """`chex.assert_max_traces` knows functions by their hash, which a later test's may share."""
    chex.clear_trace_counter()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of released weights, data and reference figures; its tests skip without it."""
    if not SHARED.is_dir():
        pytest.skip("the shared folder of reference figures is not here")
    return SHARED


@pytest.fixture
def default_promotion() -> Iterator[None]:
    """JAX's own defaults, under which experiments run."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains and evaluates on one of the simulated devices: eight of them share two cores."""
    first = jax.devices()[:1]
    for name, value in (
        ("devices", first),
        ("local_devices", first),
        ("device_count", 1),
        ("local_device_count", 1),
    ):
        monkeypatch.setattr(jax, name, lambda *args, value=value, **options: value)
