"""Freed memory of a photo is used again for the next one."""

import subprocess
import sys

import pytest

# Each photo is a little larger than all before, so that glibc's own threshold, which grows with what is freed, is
# always too low for it.
FAULTS = """
import resource
import numpy as np
from mattebox_server.memory import tune_malloc

tune_malloc()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(100):
    planes = [np.ones(200_000 + 3_000 * number, np.uint8) for _ in range(20)]
    del planes
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
LARGEST_PAGES = (
    20 * 497_000 // 4096
)  # those of the last photo's arrays, each of which is touched for the first time once


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_arrays_of_a_photo_are_not_faulted_in_anew() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * LARGEST_PAGES  # 76,000 without the tuning, or with one of its two thresholds alone
