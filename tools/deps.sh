#!/bin/sh
# Installs the programs that `make demo` or `make test` use besides Go, where they are missing: by apt on Debian and Ubuntu, by
# brew on macOS, two by pip. It says what it installs and why, starts no service, and does nothing when everything is there.
#
#   tools/deps.sh demo    the databases and their clients; without them the demo runs on embedded ones
#   tools/deps.sh test    also the peers of the end-to-end tests; with CI set it fails if something is missing after all
set -eu
what=${1:-test}
moto=5.2.1 # another version may get other things wrong: see cmd/bastion/moto_test.go
cfnlint=1.51.0

# pip_install PACKAGE WHY: the tests go on without it.
pip_install() {
	echo "Installing by pip: $1, $2"
	python3 -m pip install --quiet "$1" || echo "pip failed. The tests go on: those that need $1 are left out." >&2
}

# have NAME: is the program here, also in the places where distributions hide it?
have() {
	case $1 in
	python3:*) # a module of the distribution's Python, which the tests use
		/usr/bin/python3 -c "import ${1#*:}" >/dev/null 2>&1
		return
		;;
	/*) # a file
		[ -e "$1" ]
		return
		;;
	esac
	command -v "$1" >/dev/null 2>&1 && return 0
	for path in "/usr/sbin/$1" /usr/lib/postgresql/*/bin/"$1" /opt/homebrew/opt/postgresql*/bin/"$1" \
		/usr/local/opt/postgresql*/bin/"$1"; do
		[ -x "$path" ] && return 0
	done
	return 1
}

# What is needed: group, program, apt package, brew formula ("-" for none), and why.
needs() {
	cat <<-'EOF'
		demo postgres       postgresql        postgresql   the database behind the bastion (RDS in the lab)
		demo psql           postgresql-client postgresql   to query it
		demo redis-server   redis-server      redis        the cache behind the bastion (ElastiCache in the lab)
		demo redis-cli      redis-tools       redis        to query it
		demo curl           curl              curl         a client of the SOCKS proxy and the lab
		test pgbench        postgresql        postgresql   load through a forward
		test ssh            openssh-client    -            ssh_config, ProxyCommand and scp through the bastion
		test sshd           openssh-server    -            a far end without bastiond
		test aws            awscli            awscli       AWS's own client against the lab
		test rsync          rsync             rsync        a client of ssh through bastion proxy
		test git            git               git          the same
		test zsh            zsh               zsh          shell completion
		test fish           fish              fish         shell completion
		test nginx          nginx-light       nginx        a web server behind the HTTP proxy
		test mandoc         mandoc            mandoc       whether the manual pages are in order
		test groff          groff-base        groff        the same
		test kubectl        kubernetes-client kubernetes-cli kubectl through the proxy of an EKS cluster
		test jq             jq                jq           the recipes of docs/ci.md
		test npm            npm               node         AWS's Service Authorization Reference as data, for the policies
		test mariadbd       mariadb-server    mariadb      a MySQL database behind the bastion
		test mariadb        mariadb-client    mariadb      to query it
	EOF
	case $(uname -s) in
	Linux)
		cat <<-'EOF'
			test chromium       chromium          -            a browser through the SOCKS proxy
			test firefox-esr    firefox-esr       -            a browser of another kind, started by bastion browser
			test cc             gcc,libc6-dev     -            the race detector
			test xfreerdp       freerdp2-x11      -            an RDP client, started by bastion rdp
			test freerdp-shadow-cli freerdp2-shadow-x11 -      a desktop behind the bastion
			test Xvfb           xvfb              -            an X server for both
			test xwininfo       x11-utils         -            whether the RDP client has opened its window
			test ip             iproute2          -            network namespaces: a bastion that is truly isolated
			test unshare        util-linux        -            the same
			test systemd-analyze systemd          -            whether systemd takes the service's unit
			test python3:asyncpg python3-asyncpg  -            a PostgreSQL client without libpq
			test python3:pymysql python3-pymysql  -            a MySQL client without MariaDB's or MySQL's library
			test python3:psycopg2 python3-psycopg2 -           connection strings for Python
			test python3:sqlalchemy python3-sqlalchemy -       the same
			test node           nodejs            -            connection strings for Node
			test java           default-jdk-headless -         connection strings for JDBC; runs a source file
			test /usr/share/java/postgresql.jar libpostgresql-jdbc-java - the same, for PostgreSQL
			test /usr/share/java/mariadb-java-client.jar libmariadb-java - the same, for MySQL
		EOF
		;;
	Darwin)
		cat <<-'EOF'
			test cc             -                 -            the race detector (xcode-select --install)
		EOF
		;;
	esac
}

# missing: the lines of needs that this machine does not satisfy.
missing() {
	needs | while read -r group program rest; do
		[ "$group" = demo ] || [ "$what" = test ] || continue
		have "$program" || echo "$program $rest"
	done
}

# packages COLUMN: the packages of that column for what is missing, once each.
packages() {
	missing | awk -v c="$1" '$c != "-" { print $c }' | tr ',' '\n' | sort -u | tr '\n' ' '
}

# give_up: say what is still missing; only CI takes that for a failure.
give_up() {
	echo "$1" >&2
	missing | while read -r program apt brew why; do echo "  $program: $why" >&2; done
	[ -z "${CI:-}" ] || [ "$what" = demo ] || exit 1
	if [ "$what" = demo ]; then
		echo "The demo goes on: embedded servers take the place of missing ones." >&2
	else
		echo "The tests go on: those that need them are left out." >&2
	fi
	exit 0
}

# install_apt PACKAGES: as root, without starting or enabling the services that come with the packages.
install_apt() {
	sudo=
	if [ "$(id -u)" -ne 0 ]; then
		sudo='sudo -n'
		$sudo true 2>/dev/null || give_up "Not root, and sudo asks for a password. To install: sudo apt-get install $*
Missing:"
	fi
	policy=/usr/sbin/policy-rc.d
	if ! [ -e $policy ]; then
		trap '$sudo rm -f $policy' EXIT # ours alone: it was not there
		trap 'exit 130' INT
		trap 'exit 143' TERM
		printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
		$sudo chmod 755 $policy
	fi
	# shellcheck disable=SC2086 # the packages are separate words
	$sudo apt-get -q update && $sudo env DEBIAN_FRONTEND=noninteractive \
		apt-get -q install -y --no-install-recommends $1 || give_up "apt-get failed. Missing:"
	# A service whose package came just now shall not come up with the machine either.
	[ -d /run/systemd/system ] || return 0
	for pair in postgresql:postgresql redis-server:redis-server openssh-server:ssh mariadb-server:mariadb nginx-light:nginx; do
		case " $1 " in
		*" ${pair%%:*} "*) $sudo systemctl disable --quiet "${pair#*:}" || : ;;
		esac
	done
}

command -v go >/dev/null 2>&1 || {
	echo 'Go is missing: install 1.21 or later from https://go.dev/dl/ (it fetches the version that go.mod names).' >&2
	exit 1
}
# The programs that come by pip, whose index is not within everybody's reach: a test says that it is left out.
if [ "$what" = test ]; then
	have moto_server || pip_install "moto[server]==$moto" "an emulator of AWS's APIs that is not ours"
	have cfn-lint || pip_install "cfn-lint==$cfnlint" "AWS's linter of CloudFormation templates"
fi
[ -n "$(missing)" ] || exit 0

echo "Missing on this machine:"
missing | while read -r program apt brew why; do echo "  $program: $why"; done
if command -v apt-get >/dev/null 2>&1; then
	pkgs=$(packages 2)
	if [ -n "$pkgs" ]; then
		echo "Installing by apt-get (services are neither started nor enabled): $pkgs"
		install_apt "$pkgs"
	fi
elif command -v brew >/dev/null 2>&1; then
	pkgs=$(packages 3)
	if [ -n "$pkgs" ]; then
		echo "Installing by brew (no service is started): $pkgs"
		# shellcheck disable=SC2086 # the packages are separate words
		HOMEBREW_NO_AUTO_UPDATE=1 brew install --quiet $pkgs || give_up "brew failed. Missing:"
	fi
else
	give_up "Neither apt-get nor brew is here to install them. Missing:"
fi
[ -z "$(missing)" ] || give_up "Still missing:"
