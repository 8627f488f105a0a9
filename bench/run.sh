#!/bin/sh
# Builds the benchmarks, runs them and writes what they measured as JSON. Everything takes about twelve minutes on two
# cores and 16 GB of memory, on a machine that does nothing else meanwhile.
#
#   bench/run.sh OUTPUT.json                              everything
#   bench/run.sh OUTPUT.json model/q4 attention/decode    the rows whose names match one of these regular expressions
#   THREADS=1 bench/run.sh OUTPUT.json                    on one thread; by default one per core
set -eu

if [ $# -eq 0 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
fi
output=$1
shift
filter=$(IFS='|'; echo "${*:-.}")
root=$(dirname "$0")/..

(cd "$root" && cmake --preset release && cmake --build --preset release --target mistral_bench) >&2
exec "$root/build/release/bench/mistral_bench" ${THREADS:+"--threads=$THREADS"} --benchmark_filter="$filter" \
    --benchmark_out="$output" --benchmark_out_format=json --benchmark_counters_tabular=true
