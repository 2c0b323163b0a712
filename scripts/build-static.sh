#!/usr/bin/env bash
# Builds the static musl program for x86_64 (or another target) with what Debian, PyPI and crates.io have: no rustup, no
# Docker. The result is target/TARGET/release/tidegate.
#
# usage: scripts/build-static.sh [TARGET]      [default: x86_64-unknown-linux-musl]
#
# Takes Debian's rustc-web and rust-web-src of one version (the standard library is built from source), PyPI's ziglang as
# linker and C library, and cargo-zigbuild; installs what is missing, where it may: apt-get needs root.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
triple=${1-x86_64-unknown-linux-musl}
target=${CARGO_TARGET_DIR:-$root/target}
tools=$target/static-tools
# The oldest that Cargo.toml takes.
oldest=$(sed -nE 's/^rust-version = "1\.([0-9]+)"$/\1/p' "$root/Cargo.toml")

minor() {
    /usr/bin/rustc --version 2>/dev/null | sed -nE 's/^rustc 1\.([0-9]+).*/\1/p'
}

if (($(minor || true) + 0 < oldest)) || [[ ! -d /usr/lib/rustlib/src ]]; then
    apt-get update >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends rustc-web rust-web-src >/dev/null
fi
if (($(minor || true) + 0 < oldest)); then
    echo "Debian's rustc is 1.$(minor), and 1.$oldest is needed" >&2
    exit 1
fi
if [[ ! -x $tools/bin/cargo-zigbuild ]]; then
    cargo install --locked --quiet cargo-zigbuild --root "$tools"
fi
if ! compgen -G "$tools/venv/lib/python3*/site-packages/ziglang/zig" >/dev/null; then
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet ziglang
fi
zig=$(compgen -G "$tools/venv/lib/python3*/site-packages/ziglang/zig" | head -n 1)

cd "$root"
PATH=$tools/bin:$PATH RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="-C link-self-contained=no" \
    CARGO_ZIGBUILD_ZIG_PATH=$zig \
    cargo zigbuild -Zbuild-std=std,panic_abort --locked --release --bin tidegate --target "$triple"
ls -l "$target/$triple/release/tidegate"
