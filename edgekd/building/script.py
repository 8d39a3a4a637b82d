"""``build.sh``: what builds the engine of a bundle where it is, with edgekd or with trtexec."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from edgekd.building.trtexec import CHANGES, open_inputs, options
from edgekd.engine.plan import BuildPlan, describe_versions
from edgekd.errors import BundleError
from edgekd.spec import ModelSpec

SCRIPT_NAME = "build.sh"
_CONTINUED = " \\\n        "

# What follows runs on devices: POSIX shell and its everyday tools only. The version is read from
# the line that every trtexec prints first, as samples/common/logger.h of github.com/NVIDIA/TensorRT
# writes it: v8502 is 8.5.2, v100300 is 10.3.0.
_BEGIN = r"""#!/bin/sh
# Builds model.engine for the TensorRT of this machine. Written by edgekd.
#
#   sh build.sh                                    with edgekd where it is, else with trtexec
#   TRTEXEC=/path/to/trtexec sh build.sh           with this trtexec
#
# Exit code 0: built. 1: trtexec failed. 2: nothing here can build it.
set -eu

refuse() {
    printf 'build.sh: %s\n' "$1" >&2
    exit 2
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
if [ -z "${TRTEXEC-}" ] && command -v edgekd >/dev/null 2>&1; then
    exec edgekd build "$here" "$@"
fi
"""
_FIND = r"""[ $# -eq 0 ] || refuse 'options are for edgekd, which is not on the PATH'
if grep -q '"model.engine"' "$here/manifest.json" 2>/dev/null; then
    refuse 'the bundle has a model.engine that edgekd built, and the hash of it: use a copy without'
fi

trtexec=${TRTEXEC-}
for candidate in trtexec /usr/src/tensorrt/bin/trtexec; do
    if [ -z "$trtexec" ] && command -v "$candidate" >/dev/null 2>&1; then
        trtexec=$candidate
    fi
done
advice='on a Jetson sudo apt install libnvinfer-bin, elsewhere say TRTEXEC=/path/to/trtexec'
[ -n "$trtexec" ] || refuse "there is no edgekd and no trtexec here: $advice"
command -v "$trtexec" >/dev/null 2>&1 || refuse "$trtexec is no program that can be run"

found=$("$trtexec" --help 2>&1 | sed -n 's/.*\[TensorRT v\([0-9][0-9.]*[0-9]\)\].*/\1/p' | sed 1q)
case $found in
    *..*) refuse "$trtexec does not say which TensorRT it is of" ;;
    *.*) major=${found%%.*} rest=${found#*.} minor=${rest%%.*} ;;
    ?????*) major=$((found / 10000)) minor=$((found / 100 % 100)) ;;
    ????) major=$((found / 1000)) minor=$((found / 100 % 10)) ;;
    *) refuse "$trtexec does not say which TensorRT it is of" ;;
esac
version=$((major * 100 + minor))
"""
_OTHERWISE = r"""else
    refuse "the bundle has no model for TensorRT $major.$minor, only for "{versions}
fi
"""
_BUILD = r"""
engine=$here/model.engine
partial=$engine.$$.partial
trap 'rm -f -- "$partial"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
printf 'build.sh: TensorRT %s.%s builds %s\n' "$major" "$minor" "$onnx" >&2
if ! "$trtexec" --onnx="$here/$onnx" --saveEngine="$partial" \
    --timingCacheFile="$here/timing.cache" "$@" || [ ! -s "$partial" ]; then
    printf 'build.sh: %s failed; what it says is above\n' "$trtexec" >&2
    exit 1
fi
mv -f -- "$partial" "$engine"
printf 'build.sh: wrote %s\n' "$engine" >&2
"""


def build_script(data: Mapping[str, Any], spec: ModelSpec) -> bytes:
    """Return ``build.sh`` for the content of a ``build.json``.

    It does what ``build.json`` says through trtexec. Where trtexec cannot be told that, as with an
    input of a strange name, the script says so and needs edgekd. Nothing of the user's stands in it
    but names of inputs, quoted.
    """
    try:
        branches = "".join(_branches(data, spec))
    except BundleError:
        reason = "trtexec cannot be told what this model needs: install edgekd"
        return f"{_BEGIN}refuse {shlex.quote(reason)}\n".encode()
    otherwise = _OTHERWISE.format(versions=shlex.quote(describe_versions(data)))
    return f"{_BEGIN}{_FIND}{branches}{otherwise}{_BUILD}".encode()


def _branches(data: Mapping[str, Any], spec: ModelSpec) -> Iterator[str]:
    """Yield the options of each variant, for each kind of trtexec that it meets."""
    inputs = open_inputs({tensor.name: tensor.shape for tensor in spec.inputs})
    word = "if"
    for variant in data["variants"]:
        plan = BuildPlan.from_dict(variant["plan"])
        start, end = _version(variant["from"]), _version(variant["below"] or "99")
        starts = [start, *(change for change in CHANGES if start < change < end)]
        for oldest, below in zip(starts, [*starts[1:], end], strict=True):
            limit = "" if below >= (99, 0) else f' && [ "$version" -lt {_code(below)} ]'
            words = [shlex.quote(option) for option in options(plan, oldest, inputs)]
            if oldest >= (8, 4):
                words.append('"--exportLayerInfo=$here/layers.json"')
            yield f'{word} [ "$version" -ge {_code(oldest)} ]{limit}; then\n'
            yield f"    onnx={shlex.quote(plan.onnx)}\n"
            yield f"    set -- {_CONTINUED.join(words)}\n"
            word = "elif"


def _version(text: str) -> tuple[int, int]:
    major, minor, *_ = [*map(int, re.findall(r"\d+", text)), 0]
    return major, minor


def _code(version: tuple[int, int]) -> int:
    return version[0] * 100 + version[1]
