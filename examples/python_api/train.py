"""Prepare data, train one stage, measure it and ask it something, from Python.

python examples/python_api/train.py
"""

from pathlib import Path

from vita_train.inference.chat import open_chat
from vita_train.pipeline.steps import fetch_step, prepare_step, train_step
from vita_train.recipe.load import load_recipe
from vita_train.runs.run import Run

HERE = Path(__file__).resolve().parent
OWN_DATA = HERE.parent / "own_data"


def main() -> None:
    """Run the steps of examples/own_data that need no speech, one after the other."""
    # The same recipe as on the command line; settings are laid over it.
    run = Run(load_recipe(str(OWN_DATA / "recipe.yaml"), ["seed=1"]), "from-python")
    run.write_recipe()

    fetch_step(run)
    prepared = prepare_step(run)
    print("records used:", prepared.metrics["used"])

    # A stage trains in processes of its own, as it would from the command line.
    for stage in ("language", "photographs"):
        trained = train_step(run, stage)
        print(stage, trained.metrics)

    chat = open_chat(str(run.dir))
    print("".join(chat.ask("What colour are its eyes?", images=[OWN_DATA / "images" / "cat.jpg"])))


if __name__ == "__main__":
    main()
