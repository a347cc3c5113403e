"""The robots.txt files that runs over one store have fetched a short time ago.

Of several runs that need one at the same time, the first one asks the host, and the others wait for
its answer in the store. They share it with runs whose requests are the same: a host may answer
others otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from imgsim_assets.storage.files import Files
from imgsim_assets.storage.gc import ROBOTS_TXT

# RFC 9309, 2.4 allows a day. A catalog of the owner of the host should follow a change sooner.
_MAX_AGE_S = 600.0
# A run that has not answered for this long was killed, or does not get its turn at the host.
_PATIENCE_S = 60.0
_POLL_S = 0.5


class SharedRobotsTxt:
    """Fetches the robots.txt of an origin, unless another run has.

    Args:
        files: The root of the store.
        kind: The same for runs that send the same requests.
    """

    def __init__(self, files: Files, kind: str) -> None:
        self._files = files
        self._kind = kind

    async def get(self, origin: str, ask: Callable[[], Awaitable[str]]) -> str:
        """The text of an origin's robots.txt.

        Args:
            origin: Such as "https://example.com".
            ask: Fetches the text. What it raises is raised here, and kept from other runs.
        """
        key = hashlib.sha256(f"{self._kind} {origin}".encode()).hexdigest()[:32]
        path = f"{ROBOTS_TXT}/{key}.json"
        deadline = time.monotonic() + _PATIENCE_S
        while (found := await asyncio.to_thread(self._read_or_claim, path)) is not None:
            text: str | None = found["text"]
            if text is not None:
                return text
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(_POLL_S)
        try:
            text = await ask()
        except BaseException:
            await asyncio.to_thread(self._files.delete, path)
            raise
        await asyncio.to_thread(self._files.write, path, _body(text))
        return text

    def _read_or_claim(self, path: str) -> dict[str, Any] | None:
        """What another run has found, with text None until it has an answer; None to ask now."""
        try:
            self._files.create(path, _body(None))
        except FileExistsError:
            found = self._read(path)
            age = time.time() - found["asked_at"]
            # The clock of the machine of the other run may have been ahead.
            is_answer = found["text"] is not None and abs(age) < _MAX_AGE_S
            if is_answer or (found["text"] is None and age < _PATIENCE_S):
                return found
            self._files.write(path, _body(None))
        return None

    def _read(self, path: str) -> dict[str, Any]:
        try:
            found = json.loads(self._files.read(path))
            asked_at, text = float(found["asked_at"]), found["text"]
        except FileNotFoundError:  # the other run has failed just now
            return {"asked_at": time.time(), "text": None}
        except (ValueError, KeyError, TypeError):  # cut short by a full disk, or damaged
            return {"asked_at": 0.0, "text": None}
        return {"asked_at": asked_at, "text": text if text is None else str(text)}


def _body(text: str | None) -> bytes:
    return json.dumps({"asked_at": time.time(), "text": text}).encode()
