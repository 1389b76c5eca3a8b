"""The health command of the images: is all there that an image is for, and can it write where it
must?

    python -m vita_train.preflight.selfcheck launcher|data|trainer

Ends with 0 and one line if so, else with 1 and one line that says what is wrong.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module

from vita_train import __version__
from vita_train.errors import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED

#: Where every pod has room to write; the root file system may be read-only.
SCRATCH = "/tmp"
_STEPS = (
    "kfp.dsl.executor_main",
    "vita_train.cli.main",
    "vita_train.pipeline.steps",
    "vita_train.storage.s3",
)
#: What each image has to be able to import.
MODULES: dict[str, tuple[str, ...]] = {
    "launcher": (
        *_STEPS,
        "kfp.compiler",
        "kfp.kubernetes",
        "vita_train.preflight.cluster",
        "vita_train.launch.kubernetes.janitor",
        "vita_train.launch.kubernetes.launcher",
        "vita_train.launch.kubernetes.task",
    ),
    "data": (
        *_STEPS,
        "transformers",
        "vita_train.data.adapters.build",
        "vita_train.data.fetch.run",
        "vita_train.data.media.audio",
        "vita_train.data.media.image",
        "vita_train.data.media.video",
        "vita_train.data.prepare.run",
        "vita_train.data.sources.fetch",
        "vita_train.launch.kubernetes.step_pods",
    ),
    "trainer": (
        *_STEPS,
        "deepspeed",
        "vita_train.evaluation.run",
        "vita_train.launch.worker",
        "vita_train.weights.export",
        "vita_train.report.render",
        "vita_train.training.stage",
    ),
}


def fault(kind: str, scratch: str = SCRATCH) -> str:
    """Return what keeps an image from its work; empty if nothing does.

    Args:
        kind: a key of `MODULES`.
        scratch: directory that must be writable.
    """
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            file.write(b"x")
    except OSError as error:
        return f"{scratch} cannot be written: {error.strerror}"
    for name in MODULES[kind]:
        try:
            import_module(name)
        except Exception as error:  # whatever a library raises while it loads
            return (
                f"{name} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
            )
    return ""


def main() -> int:
    """Run the command line."""
    kind = sys.argv[1] if len(sys.argv) == 2 else ""
    if kind not in MODULES:
        print(
            f"usage: python -m vita_train.preflight.selfcheck {'|'.join(MODULES)}", file=sys.stderr
        )
        return EXIT_REFUSED
    if wrong := fault(kind):
        print(f"error: {kind} {__version__}: {wrong}", file=sys.stderr)
        return EXIT_FAILED
    print(f"{kind} {__version__}: ok")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
