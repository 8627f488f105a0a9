#!/bin/sh
# Installs what building mistral, its tests and its examples needs and this machine lacks: Debian 12, Ubuntu 24.04 or
# newer. Elsewhere it only names the packages.
#
#   cmake/setup.sh           install what is lacking
#   cmake/setup.sh --clang   the same, and Clang with its sanitizers and formatter, which the presets clang, asan and
#                            tsan want, and pip and QEMU, which .ci/run wants
#   cmake/setup.sh --check   only name what is lacking; fails if anything is
set -eu

packages="g++ cmake ninja-build libeigen3-dev libxsimd-dev nlohmann-json3-dev doctest-dev libcli11-dev"
packages="$packages libbenchmark-dev locales"
check=no
for option; do
    case $option in
        --clang) packages="$packages clang clang-format libclang-rt-dev llvm python3-pip qemu-user" ;;
        --check) check=yes ;;
        *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done

if ! command -v apt-get >/dev/null; then
    cat <<'ELSEWHERE'
This is neither Debian nor Ubuntu. mistral needs a C++20 compiler (g++ 12, clang 14, Visual Studio 2022, or newer) and:
  Fedora    dnf install gcc-c++ cmake ninja-build eigen3-devel xsimd-devel json-devel doctest-devel cli11-devel google-benchmark-devel
  Arch      pacman -S gcc cmake ninja eigen xsimd nlohmann-json doctest cli11 benchmark
  macOS     brew install cmake ninja eigen xsimd nlohmann-json doctest cli11 google-benchmark
  Windows   vcpkg install eigen3 xsimd nlohmann-json doctest cli11 benchmark
ELSEWHERE
    exit 1
fi

lacking=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || lacking="$lacking $package"
done

if [ -n "$lacking" ] && [ $check = yes ]; then
    echo "lacking:$lacking"
    exit 1
fi
if [ -n "$lacking" ]; then
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update
    # shellcheck disable=SC2086 # a list of words
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $lacking
fi

xsimd=$(dpkg-query -W -f '${Version}' libxsimd-dev)
if dpkg --compare-versions "$xsimd" lt 8.1; then
    echo "libxsimd-dev is version $xsimd here, and mistral needs 8.1 or newer: install it from" \
         "https://github.com/xtensor-stack/xsimd with cmake --install" >&2
    exit 1
fi
echo "Everything that mistral needs is installed."
