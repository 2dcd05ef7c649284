"""wrk, where it is installed: the check that our own callers are not what limits a figure."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

_SCRIPT = """\
local photographs, sent = {}, 0
for number = 0, %d do
  local file = io.open("%s/" .. number, "rb")
  photographs[number] = file:read("*a")
  file:close()
end
wrk.method = "POST"
wrk.headers["Content-Type"] = "image/jpeg"
wrk.headers["Accept"] = "%s"
function request()
  sent = sent + 1
  return wrk.format(nil, nil, nil, photographs[sent %% (#photographs + 1)])
end
"""


def installed() -> bool:
    """Whether there is a wrk to run."""
    return shutil.which("wrk") is not None


def rate(port: int, path: str, accept: str, photographs: list[bytes], callers: int, seconds: float) -> float:
    """Answers a second of `wrk -t1` on the photographs as raw bodies. Raises ValueError if any answer was no 2xx."""
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(photographs):
            Path(folder, str(number)).write_bytes(data)
        script = Path(folder, "post.lua")
        script.write_text(_SCRIPT % (len(photographs) - 1, folder, accept), "utf-8")
        options = ("-t1", f"-c{callers}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(script))
        command = ["wrk", *options, f"http://127.0.0.1:{port}{path}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec: +([\d.]+)", said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise ValueError(said)
    return float(found[1])
