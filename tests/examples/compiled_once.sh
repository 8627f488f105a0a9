#!/bin/sh
# compiled_once.sh OBJECT...: of a program's object files, exactly one holds the model's kernels.
set -eu

command -v nm >/dev/null || { echo "skipped: nm is missing"; exit 77; }
count=0
for object in "$@"; do
    kernels=$(nm "$object" | grep -c -E ' [TtWw] .*(RowBlock|AttentionTile)' || true)
    echo "$object: $kernels functions of kernels"
    if [ "$kernels" -gt 0 ]; then count=$((count + 1)); fi
done
[ "$count" -eq 1 ]
