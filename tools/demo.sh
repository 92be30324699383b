#!/bin/sh
# The main job, in a lab: `bastion-lab run -- tools/demo.sh`. Two forwards through one bastion, a row from PostgreSQL, a value
# from Redis, and the proof that nothing is left behind. Any failure ends it with a code other than 0.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/build:$PATH

pg_port=${DEMO_PG_PORT:-12345}
redis_port=${DEMO_REDIS_PORT:-16379}
: "${BASTION_LAB_URL:?run this in a lab: build/bastion-lab run -- tools/demo.sh}"

tmp=$(mktemp -d)
forward=
cleanup() {
	[ -z "$forward" ] || kill -TERM "$forward" 2>/dev/null || :
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
	echo "demo: $*" >&2
	exit 1
}

# psql, also where Debian and Homebrew hide it; nothing where it is not installed.
psql=$(command -v psql || ls -d /usr/lib/postgresql/*/bin/psql /opt/homebrew/opt/*/bin/psql /usr/local/opt/*/bin/psql \
	2>/dev/null | tail -n 1) || psql=
redis_cli=$(command -v redis-cli) || redis_cli=

# Its first lines on stdout say that the forwards are ready; a read waits for them, or for its end.
echo "\$ bastion forward rds:5432 $pg_port cache:6379 $redis_port"
mkfifo "$tmp/ready"
bastion forward rds:5432 "$pg_port" cache:6379 "$redis_port" --start-timeout 60s >"$tmp/ready" &
forward=$!
exec 3<"$tmp/ready"
for _ in 1 2; do
	if ! read -r line <&3; then
		code=0
		wait "$forward" || code=$?
		forward=
		[ "$code" -ne 7 ] || echo 'demo: DEMO_PG_PORT and DEMO_REDIS_PORT choose other ports' >&2
		fail "bastion forward ended with exit code $code (see docs/exit-codes.md)"
	fi
	echo "$line"
done
echo

sql='select id, customer, item, amount from orders order by id limit 1'
url=postgresql://app:lab@127.0.0.1:$pg_port/orders
if [ -n "$psql" ]; then
	echo "\$ psql $url -c '$sql'"
	PGCONNECT_TIMEOUT=30 "$psql" -X -P pager=off "$url" -c "$sql" | tee "$tmp/row"
else
	echo "\$ bastion-lab query $url '$sql'"
	bastion-lab query "$url" "$sql" | tee "$tmp/row"
fi
grep -q 'Ada' "$tmp/row" || fail "no row came from PostgreSQL"

if [ -n "$redis_cli" ]; then
	echo "\$ redis-cli -p $redis_port get greeting"
	"$redis_cli" -h 127.0.0.1 -p "$redis_port" get greeting | tee "$tmp/value"
else
	echo "\$ bastion-lab query redis://127.0.0.1:$redis_port 'get greeting'"
	bastion-lab query "redis://127.0.0.1:$redis_port" 'get greeting' | tee "$tmp/value"
fi
grep -q 'hello' "$tmp/value" || fail "no value came from Redis"
echo

# Ctrl-C is how a user ends it. This shell runs it in the background, where SIGINT is ignored. Exit code 143 says that it ended in order.
kill -TERM "$forward"
code=0
wait "$forward" || code=$?
forward=
[ "$code" -eq 143 ] || fail "bastion forward ended with exit code $code, not 143"

echo '$ bastion down'
bastion down

# The lab counts the sessions: each one must have been terminated, and no task may run.
if command -v curl >/dev/null; then
	curl -fsS "$BASTION_LAB_URL/_lab/state" >"$tmp/state"
	grep -q '"live": 0' "$tmp/state" || fail "an SSM session is left: $(cat "$tmp/state")"
	! grep -q '"last_status": "RUNNING"' "$tmp/state" || fail "a bastion still runs: $(cat "$tmp/state")"
	echo 'demo: done; no session is left, and the bastion ends'
else
	echo 'demo: done'
fi
