"""The documented schema of results.json and the validator agree."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest

from jointsampler.evaluation.results import Results
from tests.report.test_report import made

FILE = Path(__file__).parents[2] / "docs/schema.py"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("docs_schema", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(generator):
    return json.loads(generator.SCHEMA.read_text())


def test_the_published_schema_and_the_tables_are_those_of_the_validator(generator, published):
    assert published == generator.schema(), "run: python docs/schema.py"
    text = generator.PAGE.read_text()
    assert text == generator.page(text), "run: python docs/schema.py"


def test_every_field_has_a_description(published):
    for part in (published, *published["$defs"].values()):
        assert part["description"]
        for name, field in part["properties"].items():
            assert field.get("description"), name


def test_a_file_that_the_code_writes_fits_the_published_schema(published):
    written = json.loads(json.dumps(made(judge=True).model_dump()))
    jsonschema.validate(written, published)


def test_the_published_schema_and_the_validator_refuse_the_same_files(published):
    written = made(judge=False).model_dump(mode="json")
    for broken in (
        written | {"speed": 3},
        {key: value for key, value in written.items() if key != "teacher"},
        written | {"methods": [{"method": "joint"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, published)
        with pytest.raises(ValueError):
            Results.model_validate(broken)
