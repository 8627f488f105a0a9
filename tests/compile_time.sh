#!/bin/sh
# Prints how long one program takes to compile: by default the first that README.md shows.
#
#   tests/compile_time.sh [PROGRAM.cpp]       CXX and CXXFLAGS (g++, -O2) choose otherwise
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

program=${1:-$work/readme.cpp}
[ $# -gt 0 ] || awk '/^```/ { if (block ~ /int main\(/) exit; block = ""; inside = /^```cpp/; next }
                     inside { block = block $0 "\n" }
                     END { printf "%s", block }' "$root/README.md" > "$program"

start=$(date +%s%N)
# shellcheck disable=SC2086 # a list of flags
"${CXX:-g++}" -std=c++20 ${CXXFLAGS:--O2} -I"$root/include" $(pkg-config --cflags eigen3 2>/dev/null ||
    echo -isystem /usr/include/eigen3) -c "$program" -o "$work/program.o"
end=$(date +%s%N)
echo "${CXX:-g++} ${CXXFLAGS:--O2}: $(((end - start) / 1000000)) ms for a program of $(wc -l < "$program") lines"
