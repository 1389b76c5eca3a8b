"""Which steps of a run to do: all of them, one, or a span. Also which earlier stages a stage builds on."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from vita_train.errors import RecipeError, UserError
from vita_train.recipe.ladder import MODULES_NEEDED, STAGE_TITLES, STAGES, stage_id
from vita_train.recipe.schema import Recipe

#: Every step of the pipeline in the order it runs.
STEPS: tuple[str, ...] = ("data_fetch", "prepare", *STAGES, "evaluate", "export", "report")

STEP_TITLES: dict[str, str] = {
    "data_fetch": "data fetch",
    "prepare": "data validation",
    **STAGE_TITLES,
    "evaluate": "evaluation",
    "export": "export",
    "report": "report",
}

#: What a stage may read beside what it cannot do without: the rest of the model that later stages go on with, the rows
#: in front of sound and the state head where the model has them, an opponent to go on with, and the recogniser where
#: speech is measured.
_READ_TOO: dict[str, tuple[str, ...]] = {
    "2.1b": ("vision", "projector", "audio_prompt"),
    "2.2": ("audio_prompt", "state_head"),
    "3.1": ("discriminators", "audio_encoder", "ctc_head"),
    "3.2": ("audio_encoder", "ctc_head"),
}
#: Modules whose weights a stage may read.
MODULES_READ: dict[str, tuple[str, ...]] = {
    stage: (*needed, *_READ_TOO.get(stage, ())) for stage, needed in MODULES_NEEDED.items()}


def step_id(name: str) -> str:
    """Return the canonical name of a step given as step name, stage id or alias.

    Raises:
        UserError: nothing is known by that name.
    """
    if name in STEPS:
        return name
    try:
        return stage_id(name)
    except RecipeError:
        near = get_close_matches(name, STEPS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"steps are {', '.join(STEPS)}"
        raise UserError(f"unknown step {name!r}", remedy=hint) from None


@dataclass(frozen=True)
class Selection:
    """The steps asked for. Steps that are not picked keep what they committed before."""

    only: tuple[str, ...] = ()
    since: str = STEPS[0]
    until: str = STEPS[-1]
    force: bool = False
    """Do the picked steps again even where a commit with the same inputs exists."""

    @classmethod
    def parse(cls, only: str = "", since: str = "", until: str = "", force: bool = False) -> Selection:
        """Read a selection as users write it; ``only`` may name several steps with commas between them.

        Raises:
            UserError: a step is unknown, the span is empty, or ``only`` stands beside a span.
        """
        if only and (since or until):
            raise UserError("--only cannot be combined with --from or --until", remedy="give one or the other")
        chosen = cls(tuple(step_id(name.strip()) for name in only.split(",") if name.strip()),
                     step_id(since or STEPS[0]), step_id(until or STEPS[-1]), force)
        if STEPS.index(chosen.since) > STEPS.index(chosen.until):
            raise UserError(f"the span is empty: {chosen.since} runs after {chosen.until}",
                            remedy="swap --from and --until")
        return chosen

    def picks(self, step: str) -> bool:
        """Say whether a step is to be done."""
        if self.only:
            return step in self.only
        return STEPS.index(self.since) <= STEPS.index(step) <= STEPS.index(self.until)

    def steps(self, recipe: Recipe) -> list[str]:
        """Return the picked steps that the recipe has, in order."""
        return [step for step in run_steps(recipe) if self.picks(step)]


def run_steps(recipe: Recipe) -> list[str]:
    """Return the steps of a recipe in order: the stages it names between preparing and evaluating."""
    return [step for step in STEPS if step not in STAGES or step in recipe.stages]


def input_stages(recipe: Recipe, stage: str) -> list[str]:
    """Return the stages whose weights a stage may read: for each module the last one before it that trains it."""
    before = [name for name in STAGES[: STAGES.index(stage)] if name in recipe.stages]
    latest = {module: name for name in before for module in recipe.stages[name].trainable}
    found = {latest[module] for module in MODULES_READ[stage] if module in latest}
    return [name for name in before if name in found]
