"""Settings that have to be there before torch is imported."""

import os

os.environ.setdefault('GOMP_SPINCOUNT', '3000')
os.environ.setdefault('OMP_NUM_THREADS', '2')
