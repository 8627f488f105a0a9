#!/usr/bin/env bash
# Compiles and runs the kernels' tests with a newer xsimd than the system's: the one that PyPI's package pythran holds.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work" pythran
python3 -m zipfile -e "$work"/pythran-*.whl "$work/pythran"
read -r -a eigen <<< "$(pkg-config --cflags eigen3 2>/dev/null || echo -I/usr/include/eigen3)"

compile() {
    "${CXX:-g++}" -std=c++20 -O1 -march=native -DMISTRAL_TEST_DATA="\"$root/tests/data\"" -I"$root/include" \
        -I"$root/tests" -isystem "$work/pythran/pythran" "${eigen[@]/#-I/-isystem}" -c "$root/tests/$1.cpp" \
        -o "$work/$(basename "$1").o"
}

# Two at a time: one beside the kernels, which take longest. Quantised products and attention use no more of xsimd than
# these do.
compile kernels &
for source in main device/cpu/{simd,elementwise,multiply} model/sliding_window_attention generate/logits; do
    compile "$source"
done
wait $!
"${CXX:-g++}" "$work"/*.o -o "$work/tests" -pthread

version=$(awk '/define XSIMD_VERSION_(MAJOR|MINOR|PATCH)/ { printf "%s%s", dot, $3; dot = "." }' \
    "$work/pythran/pythran/xsimd/config/xsimd_config.hpp")
"$work/tests" --minimal
echo "the kernels' tests pass with xsimd $version"
