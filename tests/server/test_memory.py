"""Memory: what photos took is kept between two of them."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from mattebox_server.memory import tune_malloc

tune_malloc()
photo = np.ones(2_000_000, np.uint8)  # keeps the end of the heap away from what is freed below
for number in range(110):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    planes = [np.ones(300_000, np.uint8) for _ in range(20)]
    del planes
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_arrays_of_a_photo_are_not_faulted_in_anew() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # 147,000 pages are written
