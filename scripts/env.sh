# Sourced by the scripts: where things are. Nothing is changed here but the environment.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

# a bare environment, as some build servers have it
: "${HOME:=$(echo ~)}"
export HOME
case ":$PATH:" in
*":$HOME/.cargo/bin:"*) ;;
*) export PATH="$PATH:$HOME/.cargo/bin" ;;
esac

# RocksDB takes long to build: all checkouts of a user share one target folder
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/lakebed
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
TOOLS=$CACHE/tools
# servers for tests: `scripts/servers` puts them there
export LAKEBED_TEST_SERVERS=$CACHE/servers
# the client library of Databricks: `scripts/databricks-sdk` puts it there
export LAKEBED_TEST_SDK=$CACHE/databricks
BINARY=$CARGO_TARGET_DIR/release/lakebed

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

step() { say "== $*"; }

# Builds everything. The whole workspace is always named: a single package has other features, and RocksDB would be
# built once more for them.
build_workspace() {
  if ! compgen -G "$CARGO_TARGET_DIR/release/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; then
    say "The first build compiles RocksDB: about ten minutes on two processors, only once ($CARGO_TARGET_DIR)."
  fi
  cargo build --locked --release --workspace
  [ -x "$BINARY" ] || die "The build made no $BINARY."
}

# Makes the binary findable in the checkout too, where the target folder is elsewhere.
link_binary() {
  local here=$ROOT/target/release/lakebed
  if [ ! "$here" -ef "$BINARY" ]; then
    mkdir -p "${here%/*}"
    ln -sfn "$BINARY" "$here"
  fi
}
