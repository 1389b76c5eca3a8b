#!/bin/sh
# Build the S3 server that the storage tests prefer. Needs Go; takes about a minute; does nothing when it is there.
set -eu
target="$HOME/.cache/vita-train-test/bin"
if [ -x "$target/versitygw" ]; then
  exit 0
fi
mkdir -p "$target"
GOBIN="$target" go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
