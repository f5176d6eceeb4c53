"""A URI with credentials is refused where settings enter, and shown nowhere."""

from __future__ import annotations

import pytest

from jointsampler import UserError
from jointsampler.config import load_config
from jointsampler.errors import unknown_name
from jointsampler.uris import redacted, secret_in, shown, shown_all

SECRETS = [
    "s3://KEY:HUSH@bucket/run",
    "s3://KEY:HU/SH@bucket/run?region=x",
    "https://HUSH@host/mlflow",
    "https://user:HUSH@host:5000",
    "postgresql+psycopg://user:HUSH@host/db",
    "s3://bucket/run?endpoint_override=host&access_key=HUSH",
    "https://host/path?token=HUSH",
    "https://bucket.host/run?X-Amz-Signature=HUSH",
]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://KEY:HUSH@bucket/run", "s3://bucket/run"),
        ("s3://KEY:HU/SH@bucket/run?region=x", "s3://bucket/run"),
        ("postgresql://user@host:5432/db", "postgresql://host:5432/db"),
        ("s3://bucket/run@v2/a", "s3://bucket/run@v2/a"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("/home/me@work/run?", "/home/me@work/run?"),
    ],
)
def test_a_shown_location_holds_no_user_info_and_no_query(location, expected):
    assert shown(location) == expected
    assert shown_all({"a": [location, 1, None]}) == {"a": [expected, 1, None]}
    assert redacted(f"Cannot use {location} (why?)") == f"Cannot use {expected} (why?)"


@pytest.mark.parametrize("uri", SECRETS)
@pytest.mark.parametrize("key", ["run.storage", "run.mlflow_uri", "teacher.name", "evaluate.judge"])
def test_a_setting_with_credentials_is_refused_and_not_repeated(uri, key):
    with pytest.raises(UserError, match=f"{key}=.*give credentials in the environment") as caught:
        load_config(None, [f"{key}={uri}"])
    said = str(caught.value)
    assert "HUSH" not in said and "HU/SH" not in said and "\n" not in said


def test_a_file_with_credentials_anywhere_in_it_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"sweep: {{space: {{train.warm_start: ['{SECRETS[0]}']}}}}\n")
    with pytest.raises(UserError, match=r"sweep\.space\.train\.warm_start=s3://bucket/run holds"):
        load_config(path)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/run@v2?region=eu-west-1&endpoint_override=host:9000&scheme=http",
        "postgresql://mlflow@db.internal/mlflow?sslmode=require",
        "sqlite:////shared/mlflow.db",
        "http://10.0.0.5:5000",
        "gs://bucket/run",
        "a text with s3://KEY:HUSH@bucket in it is no location",
    ],
)
def test_a_place_without_credentials_is_a_setting(uri):
    assert secret_in(uri) is None


@pytest.mark.parametrize("uri", SECRETS)
def test_no_sentence_of_an_error_holds_a_secret(uri):
    """Whoever writes the sentence, and about whatever."""
    for error in (
        UserError(f"Override '{uri}' has no '='."),
        unknown_name("config key", uri, ["run.storage"]),
    ):
        assert "HUSH" not in str(error) and "HU/SH" not in str(error)
