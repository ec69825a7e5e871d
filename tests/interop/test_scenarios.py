"""Rejoin's extension gives what cr-sqlite gave, or, where a scenario says `@differs`, what the scenario says."""

import os
import pathlib

import pytest

import interop


@pytest.fixture(scope="session")
def engine():
    path = os.environ.get("REJOIN_EXTENSION")
    if not path:
        target = pathlib.Path(__file__).resolve().parents[2] / "target" / "ext"
        path = next(iter(sorted(target.glob("rejoin.*"))), None)
    assert path, "build the extension first: cargo xtask ext"
    return interop.Engine(path, os.environ.get("REJOIN_ENTRY", "sqlite3_rejoin_init"), interop.SETUP)


def cases():
    for path in interop.files():
        recorded = interop.expected_of(path)
        for scenario in interop.parse(path):
            yield pytest.param(scenario, recorded[scenario["name"]], id=f"{path.stem}-{scenario['name']}")


@pytest.mark.parametrize("scenario, recorded", cases())
def test_scenario(engine, scenario, recorded):
    results = interop.run_scenario(engine, scenario)
    for step, want, got in zip(scenario["steps"], recorded, results, strict=True):
        want = step.get("rejoin", want)
        assert interop.agree(want, got), (
            f"{step['where']}: {step.get('sql', step['kind'])}\n  cr-sqlite or @differs: {want}\n  Rejoin:               {got}"
        )


@pytest.mark.parametrize("path", interop.files(), ids=lambda path: path.stem)
def test_every_difference_is_explained(path):
    """`=>` stands only under `@differs`, and says something else than what is recorded."""
    recorded = interop.expected_of(path)
    for scenario in interop.parse(path):
        steps = zip(scenario["steps"], recorded[scenario["name"]], strict=True)
        differing = [step for step, want in steps if "rejoin" in step and not interop.agree(step["rejoin"], want)]
        stated = [step for step in scenario["steps"] if "rejoin" in step]
        assert differing == stated, f"{path.name} {scenario['name']}: an expectation that repeats the recorded one"
        assert bool(stated) == bool(scenario.get("differs")), f"{path.name} {scenario['name']}: @differs and => go together"
