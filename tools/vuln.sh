#!/bin/sh
# Checks the product's code and modules against the Go vulnerability database. A finding fails; a database that cannot be reached
# is said, and is no failure: a build machine without internet must be able to run `make check`.
#
#   tools/vuln.sh GOVULNCHECK [DATABASE]    DATABASE is a URL, https:// or file://; govulncheck's own by default
set -eu
govulncheck=$1
database=${2:-}

out=$(mktemp)
trap 'rm -f "$out"' EXIT
status=0
"$govulncheck" ${database:+-db "$database"} ./... >"$out" 2>&1 || status=$?
case $status in
0)
	cat "$out"
	;;
3) # govulncheck's code for findings
	cat "$out"
	exit 1
	;;
*)
	# Only a database out of reach is excused. Code that does not load, for example, is an error.
	if grep -Eq 'fetching vulnerabilities: .*(dial tcp|connect|no such host|timeout|proxyconnect|Forbidden|Bad Gateway)' "$out"; then
		echo "NOT CHECKED for known vulnerabilities: the database cannot be reached:"
		sed 's/^/  /' "$out"
		exit 0
	fi
	cat "$out" >&2
	exit "$status"
	;;
esac
