#!/bin/sh
# Install what the tests need besides Python. Where that isn't possible, say what is missing and which tests need it:
# pytest then skips those, or fails on them under EDGE_REQUIRE_ALL=1.
set -u

missing=""
need() { # need COMMAND PACKAGE WHAT-FOR
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
    command -v "$1" >/dev/null 2>&1 || echo "system-packages: $1 ($2) is missing: $3" >&2
}
need clang-19 clang-19 "links the Android library as the NDK would"
need lld-19 lld-19 "links the Android library as the NDK would"
need llvm-objdump-19 llvm-19 "looks at the instructions of the library for phones"
[ -e /usr/lib/llvm-19/lib/clang/19/lib/linux/libclang_rt.fuzzer-x86_64.a ] || missing="$missing libclang-rt-19-dev"
need cc gcc "links the host library"
need adb adb "talks to the stand-in phone"
need qemu-aarch64 qemu-user "runs arm64 programs on the stand-in phone"
[ -e /usr/share/qemu/binfmt.d/qemu-aarch64.conf ] || missing="$missing qemu-user-binfmt"
need ip iproute2 "the stand-in phone's network"
need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu "builds the runner for the stand-in phone"
need cmake cmake "builds the runner for Android, in make soak"
need ninja ninja-build "builds the runner for Android, in make soak"
need proguard proguard-cli "shrinks an app as R8 does, in make soak"
need apksigner apksigner "signs an app, in make soak"
need dexdump dexdump "reads an app's code, in make soak"
need zipalign zipalign "checks where files of an app begin, in make soak"
need jq jq "reads what examples print"
need npm npm "runs llama.cpp, as a package of Node.js"
need groovy groovy "parses the Gradle files of apps"
[ -e /usr/share/android-framework-res/framework-res.apk ] || missing="$missing android-framework-res"
need chromium chromium "looks at report pages"
need javac default-jdk-headless "compiles and runs the Java of apps"
[ -e /usr/share/java/com.android.json.jar ] || missing="$missing libandroid-json-java"
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    # shellcheck disable=SC2086  # one word a package
    if apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null; then
        echo "system-packages: installed$missing" >&2
    else
        echo "system-packages: could not install$missing" >&2
    fi
else
    echo "system-packages: as root: apt-get install$missing" >&2
fi
exit 0
