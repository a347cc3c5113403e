"""What the service counts."""

from __future__ import annotations

from fastapi.testclient import TestClient


def test_words_that_clients_invent_as_methods_are_counted_as_one(client: TestClient) -> None:
    for number in range(3):
        assert client.request(f"WORD{number}", "/nothing").status_code == 404
        assert client.request(f"WORD{number}", "/", headers={"Host": "x.example"}).is_error
    client.get("/api/results")

    metrics = client.get("/metrics").text

    assert "WORD" not in metrics
    assert 'imgsim_requests_total{method="other",route="none",status="404"} 3.0' in metrics
    assert 'method="GET",route="/api/results",status="200"' in metrics
