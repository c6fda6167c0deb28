"""A helper program that makes the attempts."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from services.common.helper_program import serve
    from tests.support.attempts import Surroundings, outcomes

    serve(lambda request: outcomes(Surroundings(**request["around"])))
