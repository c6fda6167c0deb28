#!/bin/sh
# Makes the virtual environment from a bare python3: pip installs uv by hash, uv installs everything else by hash.
# Usage: tools/bootstrap.sh PYTHON VENV LOCK
set -eu

python=$1 venv=$2 lock=$3

command -v "$python" >/dev/null || { echo "error: '$python' not found; name an interpreter with PYTHON=python3.11" >&2; exit 1; }
"$python" - <<'PY' || exit 1
import sys

if not (3, 11) <= sys.version_info[:2] < (3, 13):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"error: Python 3.11 or 3.12 is needed, {sys.executable} is {found}; name another with PYTHON=python3.11")
try:
    import ensurepip, venv
except ImportError as missing:
    sys.exit(f"error: this Python lacks the module '{missing.name}'; on Debian and Ubuntu install python3-venv")
PY

# An environment of another interpreter, or one whose interpreter is gone, is made anew.
wanted=$("$python" -c 'import sys; print(sys.version_info[:2])')
[ "$("$venv/bin/python" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null)" = "$wanted" ] || "$python" -m venv --clear "$venv"

say() { echo "$venv: $*" >&2; }
# A lock is complete: pip of Debian 12 would take "name[extra]" for something more, without a hash.
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
install() { pip install --no-deps --require-hashes --requirement "$1"; }

say "installing uv with pip"
install requirements/bootstrap.txt || {
    say "pip could not install uv. Behind a company's certificate authority set PIP_CERT to its PEM file, behind an index of its own PIP_INDEX_URL"
    exit 1
}

# uv does not read pip's configuration: hand over the index and the certificates that this machine is set up with.
configured() { "$venv/bin/python" -m pip config get "global.$1" 2>/dev/null || true; }
index=${PIP_INDEX_URL:-$(configured index-url)}
cert=${PIP_CERT:-$(configured cert)}
[ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
[ -z "$cert" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
# The authorities of the system, where a company's own is, and not only those that uv brings.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"

# pip also knows sources that uv has no name for (find-links, netrc of extra indexes): it is the way when uv's fails.
say "installing $(grep -c '^[a-zA-Z0-9].*==' "$lock") packages from $lock; this may take some minutes"
"$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" --require-hashes "$lock" ||
    { say "uv could not install $lock; trying pip, which is slower"; install "$lock"; }

# Relative to site-packages, so the checkout may be moved.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' ../../../.. ../../../../gen ../../../../clients/python >"$site/coxswain.pth"

# The command line beside the interpreter, wherever both are moved.
printf '%s\n' '#!/bin/sh' 'exec "$(dirname "$(readlink -f "$0")")/python" -m coxswain.client "$@"' >"$venv/bin/coxswain"
chmod +x "$venv/bin/coxswain"
