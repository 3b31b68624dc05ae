"""Asks a running daemon over its socket, for the command line.

The daemon's errors become SlimError.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path

from driver.errors import SlimError
from driver.process.unix_http import UnixConnection
from driver.work.shown import plain

TIMEOUT_S = 5.0


class NotRunningError(SlimError):
    """No daemon answers on the socket."""


def ask(path: str, call: str, request: Mapping[str, object] | None = None
        ) -> dict[str, object]:
    """Return the answer to `call` of the daemon at socket `path`.

    path: or, where nothing is there, a managed plugin's socket of that name.
    request: its arguments; None: it has none.
    Errors: NotRunningError; SlimError with the daemon's text.
    """
    path = _listening(path)
    connection = UnixConnection(path, TIMEOUT_S)
    try:
        connection.request("POST", f"/{call}",
                           b"" if request is None else json.dumps(request).encode())
        answer = json.loads(connection.getresponse().read())
    except PermissionError as error:
        raise SlimError(f"no access to {path}: run as root (su -, or sudo -s)") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotRunningError(f"no driver answers on {path} ({error}); is it running?") from error
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise SlimError(f"{path} answers something that is no object")
    if answer.get("Err"):
        raise SlimError(" ".join(map(plain, str(answer["Err"]).splitlines())))
    return answer


def _listening(path: str) -> str:
    """Return the path; if there is none, that of the one plugin which has its socket beside it.

    dockerd gives each plugin a folder of its own, named by its id.
    """
    wanted = Path(path)
    if wanted.exists():
        return path
    plugins = [str(found) for found in wanted.parent.glob(f"*/{wanted.name}")]
    return plugins[0] if len(plugins) == 1 else path
