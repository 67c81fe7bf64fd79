"""What every test shares: the cpu profile, and no windows."""

import os

import matplotlib

os.environ["COURSE_PROFILE"] = "cpu"
matplotlib.use("Agg")
