#!/bin/sh
# Installs what tools/npm/package.json pins into build/npm, and runs none of its scripts. With CI set it fails if that
# cannot be done; elsewhere the tests leave out what needs it.
set -eu
cd "$(dirname "$0")/.."
dir=build/npm
cmp -s tools/npm/package.json $dir/package.json 2>/dev/null && exit 0
fresh=build/npm.$$
trap 'rm -rf $fresh' EXIT
mkdir -p $fresh
cp tools/npm/package.json $fresh/
if command -v npm >/dev/null 2>&1 &&
	npm install --prefix $fresh --no-package-lock --no-save --no-audit --no-fund --ignore-scripts --loglevel=error >&2; then
	rm -rf $dir
	mv $fresh $dir
	exit 0
fi
echo 'npm did not install what tools/npm/package.json names: the policies are not compared with the Service Authorization Reference, and connection strings are not tried with drivers for Node.' >&2
[ -z "${CI:-}" ]
