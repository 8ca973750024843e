"""Look for known vulnerabilities in what both locks pin; exits with 1 if there are any, or none could be told.

    python .ci/audit.py [--unless-unreachable]

pip-audit passes what it cannot look up, so a service that cannot be reached would look like a clean bill. With
``--unless-unreachable``, not being able to look is said, and is no failure; a vulnerability always is one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: The checkout's, and the image's.
LOCKS = ("requirements.lock", "infra/image/requirements.lock")


def main() -> int:
    """Run pip-audit, and say what it found, and what it did not look at."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
    command += [word for lock in LOCKS for word in ("-r", lock)]
    ended = subprocess.run(  # noqa: S603  (its own arguments)
        [*command, "--format", "json", "--progress-spinner", "off", "--timeout", "15"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(ended.stdout)["dependencies"] if ended.stdout.startswith("{") else []
    bad = [(one, found) for one in told for found in one.get("vulns", ())]
    for one, found in bad:
        fixed = ", ".join(found["fix_versions"]) or "no version"
        say(f"{one['name']} {one['version']}: {found['id']}, fixed in {fixed}")
    looked_at = [one for one in told if "vulns" in one]
    if bad or (told and len(looked_at) == len(told)):
        say(f"audit: {len(bad)} known vulnerabilities in {len(looked_at)} packages")
        return 1 if bad else 0
    say(f"audit: {len(told) - len(looked_at)} packages of {len(told)} could not be looked up")
    if not told:
        say(ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else "pip-audit said nothing")
    return 0 if "--unless-unreachable" in sys.argv else 1


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
