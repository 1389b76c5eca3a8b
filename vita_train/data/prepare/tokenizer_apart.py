"""The run's tokenizer made in a process of its own, which has no torch.

    python -m vita_train.data.prepare.tokenizer_apart < (recipe, registry, path, out), pickled

transformers imports all of torch for its models where there is one: half a gigabyte, and most of
what a small preparation takes. Only what this package itself writes goes through the pipes.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import vita_train
from vita_train.data.sources.registry import Registry
from vita_train.errors import EXIT_DONE, VitaError
from vita_train.recipe.schema import Recipe


def save_tokenizer(recipe: Recipe, registry: Registry, path: Path, out: Path) -> int:
    """Save the run's tokenizer as `make_tokenizer` does, and return the number of its entries.

    Where this process has transformers already, it is made here.

    Raises:
        DataError, RecipeError: as `make_tokenizer` says.
        VitaError: the process was ended from outside.
    """
    if "transformers" in sys.modules:
        return _entries(recipe, registry, path, out)
    paths = (str(Path(vita_train.__file__).parents[1]), os.environ.get("PYTHONPATH"))
    done = subprocess.run(
        # -P: a module in the working directory must not stand for one of the library
        [sys.executable, "-P", "-m", __name__],
        input=pickle.dumps((recipe, registry, path, out)),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        check=False,
    )
    if done.returncode != EXIT_DONE:
        raise VitaError(
            f"the process that makes the tokenizer ended with code {done.returncode}",
            code="VT-FAIL-029",
            where=str(out),
            remedy="see above for its own message, and to the machine's memory",
        )
    answer: int | VitaError = pickle.loads(done.stdout)
    if isinstance(answer, VitaError):
        raise answer
    return answer


def _entries(recipe: Recipe, registry: Registry, path: Path, out: Path) -> int:
    from vita_train.data.prepare.vocabulary import make_tokenizer

    return len(make_tokenizer(recipe, registry, path, out))


def main() -> int:
    """Answer on standard output; whatever is printed goes to standard error."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # as if it were not installed
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # which would be said
    # The answer has the pipe to itself: what libraries print would break the pickle
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as pipe:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        answer: int | VitaError
        try:
            answer = _entries(*pickle.load(sys.stdin.buffer))
        except VitaError as error:
            answer = error
        pickle.dump(answer, pipe)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
