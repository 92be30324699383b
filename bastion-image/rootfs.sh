#!/bin/sh
# Builds the root file system of the bastion image in a new directory: bastiond, CA certificates, two users, and the
# directories that a task needs. Nothing else is in the image, so that it runs without an engine too (chroot).
#
#   bastion-image/rootfs.sh OUTDIR
#
# Environment:
#   BASTIOND   a static bastiond to copy, instead of building one
#   VERSION    what bastiond calls itself, when it is built here
#   GOARCH     amd64 or arm64, when it is built here (default: this machine's)
#   ALLOW      the destinations that the image allows at most, as BASTIOND_ALLOW has them (default: no limit of the image's)
#   CA_BUNDLE  the CA certificates, as a PEM file (default: this machine's)
#
# Run as root, the control socket's directory belongs to bastiond's user and root's group. Otherwise the Dockerfile sees to it.
set -eu

uid=65532

fail() {
	echo "rootfs.sh: $*" >&2
	exit 1
}

[ $# -eq 1 ] || fail "usage: rootfs.sh OUTDIR"
out=$1
if [ -e "$out" ] && [ -n "$(ls -A "$out")" ]; then
	fail "$out exists and is not empty: remove it first"
fi

ca=${CA_BUNDLE:-}
if [ -z "$ca" ]; then
	for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
		if [ -r "$file" ]; then
			ca=$file
			break
		fi
	done
fi
[ -r "$ca" ] || fail "no CA certificates found: install ca-certificates, or set CA_BUNDLE to a PEM file"

umask 022
mkdir -p "$out"
out=$(cd "$out" && pwd)
repository=$(cd "$(dirname "$0")/.." && pwd)

if [ -n "${BASTIOND:-}" ]; then
	cp "$BASTIOND" "$out/bastiond"
else
	(cd "$repository" && CGO_ENABLED=0 GOOS=linux go build -trimpath \
		-ldflags "-s -w -X main.buildVersion=${VERSION:-}" -o "$out/bastiond" ./cmd/bastiond)
fi
chmod 755 "$out/bastiond"

mkdir -p "$out/etc/ssl/certs"
cp "$ca" "$out/etc/ssl/certs/ca-certificates.crt"
chmod 644 "$out/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0:root:/:/nonexistent\nbastiond:x:%s:%s:bastiond:/:/nonexistent\n' "$uid" "$uid" >"$out/etc/passwd"
printf 'root:x:0:\nbastiond:x:%s:\n' "$uid" >"$out/etc/group"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$out/etc/hosts"
printf 'hosts: files dns\n' >"$out/etc/nsswitch.conf"

if [ -n "${ALLOW:-}" ]; then
	mkdir -p "$out/etc/bastiond"
	printf '%s\n' "$ALLOW" >"$out/etc/bastiond/allow"
fi

# The control socket's directory; the mount points that the ECS Exec agent needs; those of any container.
mkdir -p "$out/run/bastiond" \
	"$out/managed-agents" "$out/var/lib/amazon/ssm" "$out/var/log/amazon/ssm" \
	"$out/dev" "$out/proc" "$out/sys"
# Root, which has no capability there, enters it by its group.
chmod 710 "$out/run/bastiond"
if [ "$(id -u)" -eq 0 ]; then
	chown -R 0:0 "$out"
	chown "$uid:0" "$out/run/bastiond"
fi
