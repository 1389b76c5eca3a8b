"""What all components share: they run in our own image, which has the package and kfp installed."""

from __future__ import annotations

import os
from functools import partial

from kfp import dsl

#: Image of every component. Give it by digest in a cluster: KFP's cache sees only this string.
IMAGE = os.environ.get("VITA_TRAIN_IMAGE", "vita-train-trainer-python:0.1.0")

component = partial(dsl.component, base_image=IMAGE, install_kfp_package=False)
