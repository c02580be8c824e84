"""Settings that have to be there before torch is imported."""

import gc
import os

os.environ.setdefault('GOMP_SPINCOUNT', '3000')
# One of several workers (`make test`) leaves the other cores to the others.
os.environ.setdefault('OMP_NUM_THREADS', '1' if 'PYTEST_XDIST_WORKER' in os.environ else '2')


def pytest_collection_finish(session):
    """Leave what was imported out of collections: mmengine asks for one per data set it builds."""
    gc.collect()
    gc.freeze()
