"""A program under the limits of the litellm helper that makes the attempts.

It is given `Surroundings` and a port that it may call, as JSON.
"""

import json
import socket
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from services.models.providers.litellm.process_limits import limit_process
    from tests.support.attempts import Surroundings, outcomes

    around, port = json.loads(sys.argv[1])
    limit_process({port})
    found = outcomes(Surroundings(**around))
    with socket.create_connection(("127.0.0.1", port), 10):
        pass
    socket.getaddrinfo("localhost", port)
    print(json.dumps(found))
