"""What a job that ran out of memory tells its reader."""

from pathlib import Path

from vita_train.errors import PeerLostError, VitaError
from vita_train.launch.memory import ran_out, with_estimate
from vita_train.recipe.load import dump_recipe, load_recipe


def test_want_of_memory_is_told_from_other_ends(tmp_path: Path) -> None:
    assert ran_out(PeerLostError("a process of the job was killed by SIGKILL"), tmp_path)
    assert not ran_out(PeerLostError("a process of the job was killed by SIGSEGV"), tmp_path)
    assert not ran_out(VitaError("the job failed"), tmp_path)
    log = tmp_path / "rank-1.log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n")
    assert ran_out(VitaError("the job failed"), tmp_path)


def test_the_estimate_and_the_next_setting_are_named(tmp_path: Path) -> None:
    settings = ["model.vision.num_layers=2"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_recipe(load_recipe("tiny", settings)), encoding="utf-8")
    failure = PeerLostError("killed by SIGKILL", code="VT-PEER-002", where="log", remedy="wait")
    told = with_estimate(failure, recipe, "0.vision")
    assert isinstance(told, PeerLostError)
    assert (told.code, told.where) == ("VT-PEER-002", "log")
    assert "0.vision is 0.0" in told.what
    setting = told.remedy.partition("--set '")[2].rstrip("'")
    load_recipe("tiny", [setting])
    assert setting == "stages.0.vision.engine.checkpoint_activations=selective"


def test_without_an_estimate_the_failure_stays_as_it_is(tmp_path: Path) -> None:
    failure = PeerLostError("killed by SIGKILL", code="VT-PEER-002")
    assert with_estimate(failure, tmp_path / "nothing.yaml", "1.1") is failure
