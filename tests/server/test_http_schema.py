"""The OpenAPI document is true: schemathesis makes requests from it and holds the answers against it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install schemathesis")

from fake_engine import FakeEngine  # noqa: E402
from http_tools import Serving, serving  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

from baichuan_audio.server import ServerSettings, create_app  # noqa: E402

schema = schemathesis.openapi.from_dict(create_app(FakeEngine(), ServerSettings()).openapi())


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(FakeEngine(max_sessions=64)) as server:
        yield server


@schema.parametrize()
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case, server: Serving):
    """What the schema cannot say (that audio must be audio, that the user has the last word) may be refused."""
    case.call_and_validate(
        base_url=server.url.rstrip("/"), headers={"host": "127.0.0.1"}, excluded_checks=[positive_data_acceptance]
    )


def test_the_document(server: Serving):
    document = server.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/models",
        "/v1/audio/voices",
        "/v1/realtime/client_secrets",
        "/v1/models",
        "/v1/models/{id}",
        "/health",
        "/metrics",
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path


def test_keys_are_named():
    document = create_app(FakeEngine(), ServerSettings(api_keys=("x",))).openapi()
    assert document["security"] == [{"key": []}]
