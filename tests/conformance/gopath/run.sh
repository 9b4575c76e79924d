#!/bin/sh
# usage: run.sh <socket> [<gocode>]   gocode: where Debian's -dev packages have their sources
set -eu
here=$(cd "$(dirname "$0")" && pwd)
gocode=${2:-/usr/share/gocode}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/src"
cp -r "$here" "$work/src/gopath"
cd "$work/src/gopath"
GO111MODULE=off GOFLAGS= GOPATH="$work:$gocode" go test -tags containerd16 -c -o "$work/suite" .
"$work/suite" -test.root -test.v -socket "$1"
