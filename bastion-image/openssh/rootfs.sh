#!/bin/sh
# Builds the root file system of the OpenSSH variant in a new directory: that of ../rootfs.sh, with OpenSSH's server and the shared libraries
# that it loads, from the Debian packages of the machine that it runs on. It has no shell and no other program.
#
#   bastion-image/openssh/rootfs.sh OUTDIR
#
# Environment: as of ../rootfs.sh, and
#   SSHD       sshd to copy (default: /usr/sbin/sshd, of the package openssh-server)
#
# The root is for the architecture of this machine. The result depends on the versions of its packages: /etc/bastiond/packages lists them.
set -eu

fail() {
	echo "rootfs.sh: $*" >&2
	exit 1
}

[ $# -eq 1 ] || fail "usage: rootfs.sh OUTDIR"
here=$(cd "$(dirname "$0")" && pwd)
sshd=${SSHD:-/usr/sbin/sshd}
[ -x "$sshd" ] || fail "$sshd is missing: install Debian's openssh-server, or set SSHD"
"$here/../rootfs.sh" "$1"
umask 022
out=$(cd "$1" && pwd)

# From OpenSSH 9.8 on, sshd runs further programs, from fixed places.
list=$(mktemp)
trap 'rm -f "$list"' EXIT
for program in "$sshd" /usr/lib/openssh/sshd-session /usr/lib/openssh/sshd-auth; do
	if [ -x "$program" ]; then
		echo "$program" >>"$list"
		ldd "$program" | sed -n 's/^.*=> \(\/[^ ]*\) .*$/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*$/\1/p' >>"$list"
	fi
done
# Each where the loader looks for it, whatever links lead there on this machine.
sort -u "$list" | while read -r file; do
	mkdir -p "$out$(dirname "$file")"
	cp -L "$file" "$out$file"
	chmod 755 "$out$file"
done
if [ "$sshd" != /usr/sbin/sshd ]; then
	mkdir -p "$out/usr/sbin"
	mv "$out$sshd" "$out/usr/sbin/sshd"
fi

mkdir -p "$out/etc/bastiond"
cp "$here/sshd_config" "$out/etc/bastiond/sshd_config"
chmod 644 "$out/etc/bastiond/sshd_config"
# Both names are bastiond's user; the shell is one that runs nothing.
uid=65532
for name in bastion grant-pending; do
	printf '%s:x:%s:%s:SSH:/:/bastiond\n' "$name" "$uid" "$uid" >>"$out/etc/passwd"
done
# sshd resolves names by bastiond alone, at the socket of nscd: the name service switch has no service for hosts.
printf 'passwd: files\ngroup: files\nhosts:\n' >"$out/etc/nsswitch.conf"
mkdir -p "$out/var/run/nscd"
ln -s /run/bastiond/nscd "$out/var/run/nscd/socket"
if command -v dpkg-query >/dev/null; then
	sort -u "$list" | while read -r file; do
		dpkg-query -S "$(readlink -f "$file")" 2>/dev/null || dpkg-query -S "$file" 2>/dev/null || true
	done | sed 's/: .*//' | sort -u | xargs dpkg-query -W -f '${Package} ${Version}\n' >"$out/etc/bastiond/packages"
fi
if [ "$(id -u)" -eq 0 ]; then
	chown -R -h 0:0 "$out"
	chown "$uid:0" "$out/run/bastiond"
fi
