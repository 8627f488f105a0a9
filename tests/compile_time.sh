#!/usr/bin/env bash
# Prints how long one program takes to compile, in seconds of processor time: by default the first that README.md shows.
#
#   tests/compile_time.sh [PROGRAM.cpp]       such as an example; CXX and CXXFLAGS (g++, -O2) choose otherwise
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

program=${1:-$work/readme.cpp}
[ $# -gt 0 ] || awk '/^```/ { if (block ~ /int main\(/) exit; block = ""; inside = /^```cpp/; next }
                     inside { block = block $0 "\n" }
                     END { printf "%s", block }' "$root/README.md" > "$program"

compiler=${CXX:-g++}
read -r -a flags <<< "${CXXFLAGS:--O2}"
read -r -a eigen <<< "$(pkg-config --cflags eigen3 2>/dev/null || echo -I/usr/include/eigen3)"
TIMEFORMAT='%U'
seconds=$({ time "$compiler" -std=c++20 "${flags[@]}" -I"$root/include" "${eigen[@]}" -DMISTRAL_DEFAULT_MODEL='""' \
    -c "$program" -o "$work/program.o"; } 2>&1) || { echo "$seconds" >&2; exit 1; }
echo "$compiler ${flags[*]}: $seconds s for a program of $(wc -l < "$program") lines"
