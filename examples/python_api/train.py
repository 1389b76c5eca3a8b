"""Prepare data, train one stage, measure it and ask it something, from Python.

    python examples/python_api/train.py
"""

from pathlib import Path

from vita_train.inference.chat import open_chat
from vita_train.pipeline.steps import fetch_step, open_run, prepare_step, train_step

HERE = Path(__file__).resolve().parent
OWN_DATA = HERE.parent / "own_data"


def main() -> None:
    """Run the steps of examples/own_data that need no speech, one after the other."""
    # The same recipe as on the command line; settings are laid over it.
    run, _ = open_run(str(OWN_DATA / "recipe.yaml"), run="from-python", overrides=["seed=1"])

    fetch_step(run)
    prepared = prepare_step(run)
    print("records used:", prepared.metrics["used"])

    for stage in ("language", "photographs"):
        trained = train_step(run, stage)
        print(stage, trained.metrics)

    chat = open_chat(str(run.dir))
    print("".join(chat.ask("What colour are its eyes?", images=[OWN_DATA / "images" / "cat.jpg"])))


if __name__ == "__main__":
    main()
