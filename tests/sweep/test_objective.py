"""Which way the objective of a sweep is better, and how the sweeper is told."""

import pytest
from omegaconf import DictConfig, OmegaConf

from rollout.errors import UserError
from rollout.sweep.objective import direct, direction, metric

SWEEPERS = {
    "optuna": {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper", "direction": "minimize"},
    "nevergrad": {
        "_target_": "hydra_plugins.hydra_nevergrad_sweeper.nevergrad_sweeper.NevergradSweeper",
        "optim": {"maximize": False},
    },
    "ax": {
        "_target_": "hydra_plugins.hydra_ax_sweeper.ax_sweeper.AxSweeper",
        "ax_config": {"experiment": {"minimize": True}},
    },
    "basic": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"},
}
PLACES = {"optuna": "direction", "nevergrad": "optim.maximize", "ax": "ax_config.experiment.minimize"}


def config(sweeper: str, objective: str | None, asked: str | None = None, *typed: str) -> DictConfig:
    """The config of a sweep, as Hydra gives it to a callback: not to be written to."""
    of_hydra = {"sweeper": SWEEPERS[sweeper], "overrides": {"hydra": list(typed)}}
    made = OmegaConf.create({"sweep": {"objective": objective, "direction": asked}, "hydra": of_hydra})
    OmegaConf.update(made, "hydra.sweeper", OmegaConf.from_dotlist([*typed]).get("hydra", {}).get("sweeper", {}))
    OmegaConf.set_readonly(made, True)
    OmegaConf.set_struct(made, True)
    return made


@pytest.mark.parametrize(
    ("objective", "way"),
    [
        ("score.mean", "maximize"),
        ("scores.pass_at_k.8", "maximize"),
        ("score.estimates.pass@8.value", "maximize"),
        ("throughput.output_tok_s", "maximize"),
        ("distinct_responses.mean", "maximize"),
        ("seconds.generate", "minimize"),
        ("truncated_fraction", "minimize"),
        ("estimates.looping_fraction.value", "minimize"),
        ("score.unscored", "minimize"),
        ("totals.failed", "minimize"),
        ("thinking.unclosed", "minimize"),
        ("tokens.mean", None),
        ("totals.generated_tokens", None),
        ("score.estimates.mean.se", None),
        ("estimates.stop_fraction.value", None),
    ],
)
def test_the_name_of_a_number_says_which_way_it_is_better_or_nobody_knows(objective: str, way: str | None) -> None:
    assert direction(objective) == way


@pytest.mark.parametrize(("sweeper", "told"), [("optuna", "maximize"), ("nevergrad", True), ("ax", False)])
def test_the_sweeper_is_told(sweeper: str, told: str | bool, capsys: pytest.CaptureFixture[str]) -> None:
    made = config(sweeper, "score.mean")
    direct(made)
    assert OmegaConf.select(made.hydra.sweeper, PLACES[sweeper]) == told
    assert capsys.readouterr().out == "sweep: looks for the highest score.mean\n"


def test_what_was_typed_stays(capsys: pytest.CaptureFixture[str]) -> None:
    made = config("optuna", "tokens.mean", None, "hydra.sweeper.direction=maximize")
    direct(made)
    assert made.hydra.sweeper.direction == "maximize"
    direct(config("optuna", "score.mean", None, "hydra.sweeper.direction=minimize"))
    assert (
        capsys.readouterr().out == "sweep: looks for the highest tokens.mean\nsweep: looks for the lowest score.mean\n"
    )


def test_a_number_that_may_be_better_either_way_wants_a_word() -> None:
    with pytest.raises(UserError, match=r"sweep.objective=tokens.mean: is more of it better, or less"):
        direct(config("optuna", "tokens.mean"))
    made = config("optuna", "tokens.mean", "maximize")
    direct(made)
    assert made.hydra.sweeper.direction == "maximize"


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (config("optuna", "score.mean", "up"), "sweep.direction=up: choose from maximize, minimize"),
        (config("basic", None, "maximize"), "sweep.direction=maximize: of which number?"),
        (config("basic", "score.meen"), "sweep.objective=score.meen: no such number, did you mean mean?"),
        (
            config("optuna", "score.mean", "maximize", "hydra.sweeper.direction=minimize"),
            "sweep.direction=maximize: hydra.sweeper.direction=minimize says the opposite",
        ),
        (
            config("optuna", "score.mean", None, "hydra.sweeper.direction=[minimize,maximize]"),
            "hydra.sweeper.direction=[minimize,maximize]: sweep.objective is one number",
        ),
        (
            config("optuna", "score.mean", None, "hydra.sweeper.direction=up"),
            "hydra.sweeper.direction=up: choose from maximize, minimize",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_named_before_the_first_job(made: DictConfig, problem: str) -> None:
    with pytest.raises(UserError) as error:
        direct(made)
    assert str(error.value).startswith(problem)


def test_a_sweep_without_an_optimizer_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    direct(config("basic", "tokens.mean"))
    direct(config("basic", None))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("objective", "column"),
    [
        ("score.mean", "mean_score"),
        ("score.pass_at_k.4", "pass@4"),
        ("truncated_fraction", "truncated_fraction"),
        ("totals.failed", None),
    ],
)
def test_an_objective_that_is_a_score_is_a_column_of_the_table(objective: str, column: str | None) -> None:
    assert metric(objective) == column
