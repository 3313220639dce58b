"""Characters a second through `charlm serve`: written, and scored. A client of its own reads the stream.

python -m benchmarks.serve RUN [--checkpoints DIR]
"""

import argparse
import http.client
import json
import signal
import subprocess
import sys
from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

WRITTEN, SCORED, TRIALS = 4000, 40_000, 5


def streamed(url: str, operation: str, **body: Any) -> tuple[float, float, str]:
    """Seconds to the first piece and to the last one, and the text that was written."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    headers = {
        "Authorization": f"Bearer {parse_qs(address.query)['token'][0]}",
        "Content-Type": "application/json",
    }
    began = perf_counter()
    connection.request("POST", f"/api/{operation}", json.dumps(body), headers)
    answer, first, text = connection.getresponse(), 0.0, ""
    for line in answer:
        first = first or perf_counter() - began
        text += json.loads(line).get("text", "")
    took = perf_counter() - began
    connection.close()
    return first, took, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--checkpoints", default="checkpoints")
    options = parser.parse_args()
    command = [sys.executable, "-m", "charlm", "serve", options.run, "--checkpoints", options.checkpoints]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        written = [
            streamed(url, "generate", text="\n", length=WRITTEN, sampling={"seed": 1}) for _ in range(TRIALS)
        ]
        text = (written[0][2] * (1 + SCORED // WRITTEN))[:SCORED]
        scored = [streamed(url, "score", text=text) for _ in range(TRIALS)]
        server.send_signal(signal.SIGTERM)
    print(f"written: {WRITTEN / median(took for _, took, _ in written):,.0f} characters/s")
    print(f"first character after {1000 * median(first for first, _, _ in written):.0f} ms")
    print(f"scored: {SCORED / median(took for _, took, _ in scored):,.0f} characters/s")


if __name__ == "__main__":
    main()
