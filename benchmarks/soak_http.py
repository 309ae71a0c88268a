"""A client of the HTTP API, in the place of gRPC's, for the soak."""

from typing import Any

import requests

from diffvqa_rt.errors import InputError, VideoDecodeError
from diffvqa_rt.serving import RequestError

_NAME = "<bytes>"


class HttpScore:
    """A result as it came."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def as_dict(self) -> dict[str, Any]:
        return dict(self._values)


class HttpClient:
    """Scores a video at a time at `url`; the errors are those of `Client`, told by their sentences."""

    def __init__(self, url: str, *, metric: str, deadline_seconds: float) -> None:
        self._url, self._metric, self._deadline_seconds = url, metric, deadline_seconds
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy stands between

    def score(self, video: bytes, **options: Any) -> HttpScore:
        """The result of one video. Raises as `Client.score` does."""
        given = {name: str(value) for name, value in options.items() if value is not None}
        try:
            answer = self._session.post(
                f"{self._url}/v1/score",
                files=[("video", (_NAME, video))],
                data={"metric": self._metric, **given},
                timeout=self._deadline_seconds,
            )
            values = answer.json()
        except requests.RequestException as error:
            raise RequestError(f"{_NAME}: {self._url} gave no answer ({error})") from error
        (result,) = values.get("results", [values])
        if "error" not in result:
            return HttpScore(result)
        sentence = result["error"]
        if answer.status_code >= 500:
            raise RequestError(sentence)
        raise VideoDecodeError(sentence) if sentence.startswith(_NAME) else InputError(sentence)

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> "HttpClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
