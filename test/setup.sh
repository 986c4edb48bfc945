# What demo, check and lint have in common; sourced by them.
#
# prepare PACKAGE... finds a PostgreSQL (or installs the distribution's) along
# with a compiler and the given Debian packages, and says so first.
# build copies the sources into a temporary directory, compiles them there
# with -Werror (with the sanitizers of gcc if ES_SANITIZE is set) and installs the result into a private copy of PostgreSQL's
# programs in the same directory.  So nothing is written into the checkout or
# into the system's PostgreSQL, no privileges are needed once the packages are
# there, and servers that run on the machine are not touched.
#
# All servers live in the temporary directory, listen on Unix sockets in it
# only, and go with it when the script ends, however it ends.
# shellcheck shell=bash

set -eu -o pipefail
unset MAKEFLAGS MFLAGS MAKELEVEL PGHOST PGPORT PGDATABASE PGUSER PGDATA PGOPTIONS PGSERVICE
export LC_ALL=C.UTF-8 PGCONNECT_TIMEOUT=60 PGISOLATIONTIMEOUT=60

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OLDEST=15
WORK=
JOB=
CREATECLUSTER=/etc/postgresql-common/createcluster.conf

say()
{
	printf '%s\n' "$*"
}

die()
{
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# --- ending ---------------------------------------------------------------

# Ends what this script has started and removes its directory.
cleanup()
{
	local status=$? i pids

	trap '' INT TERM HUP
	if [ -n "$JOB" ]; then
		kill -TERM -- "-$JOB" 2>/dev/null || true
		wait_gone 50 "-$JOB" || kill -KILL -- "-$JOB" 2>/dev/null || true
	fi
	if [ -n "$WORK" ]; then
		# Servers have left the group; SIGQUIT is their immediate shutdown.
		for ((i = 0; i < 100; i++)); do
			read -ra pids <<<"$(our_processes)"
			[ ${#pids[@]} -gt 0 ] || break
			kill "$([ "$i" -lt 50 ] && echo -QUIT || echo -KILL)" "${pids[@]}" 2>/dev/null || true
			sleep 0.1
		done
		rm -rf "$WORK"
	fi
	restore_createcluster
	exit "$status"
}

# Prints the processes that run programs of the private copy of PostgreSQL.
our_processes()
{
	local process program

	for process in /proc/[0-9]*; do
		program=$(readlink "$process/exe" 2>/dev/null) || continue
		[[ "$program" != "$WORK/"* ]] || printf '%s ' "${process#/proc/}"
	done
}

# Waits for at most $1 tenths of a second until process (group) $2 has ended.
wait_gone()
{
	local i

	for ((i = 0; i < $1; i++)); do
		kill -0 -- "$2" 2>/dev/null || return 0
		sleep 0.1
	done
	return 1
}

trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command in a process group of its own, so that a signal to this
# script is acted upon at once and reaches everything the command started.
in_group()
{
	local status=0

	set -m
	"$@" </dev/null &
	JOB=$!
	set +m
	wait "$JOB" || status=$?
	JOB=
	return "$status"
}

# Runs a command as the user the servers run as: PostgreSQL refuses root.
as_user()
{
	if [ "$(id -u)" -eq 0 ]; then
		runuser -u "$RUNUSER" -- "$@"
	else
		"$@"
	fi
}

# --- packages -------------------------------------------------------------

as_root()
{
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "this needs root or sudo: $*"
	fi
}

installed()
{
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Sets PG_CONFIG to a PostgreSQL that can be built against, or NEWEST to the
# newest version in Debian's place that only lacks its headers, or neither.
find_postgres()
{
	local candidate dir

	NEWEST=
	if [ -n "${PG_CONFIG:-}" ]; then
		PG_CONFIG=$(command -v "$PG_CONFIG") || die "PG_CONFIG is not a program"
		usable "$PG_CONFIG" ||
			die "$PG_CONFIG: no PostgreSQL $OLDEST or later with server and development files"
		return
	fi

	for candidate in $(command -v pg_config) \
		$(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -t / -k 5 -n -r); do
		if usable "$candidate"; then
			PG_CONFIG=$candidate
			return
		fi
	done

	for dir in /usr/lib/postgresql/*/bin/postgres; do
		dir=${dir#/usr/lib/postgresql/}
		dir=${dir%%/*}
		if [ "$dir" != '*' ] && [ "$dir" -ge "${NEWEST:-$OLDEST}" ]; then
			NEWEST=$dir
		fi
	done
}

# True if pg_config $1 belongs to a complete installation of a known version.
usable()
{
	local bindir pgxs version

	[ -x "$1" ] || return 1
	pgxs=$("$1" --pgxs 2>/dev/null) && bindir=$("$1" --bindir) || return 1
	version=$("$1" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
	[ -f "$pgxs" ] && [ -x "$bindir/postgres" ] && [ -x "$bindir/initdb" ] &&
		[ "${version:-0}" -ge "$OLDEST" ]
}

# Finds or installs PostgreSQL, a compiler and the packages given.
prepare()
{
	local package need=()

	find_postgres
	command -v gcc >/dev/null && [ -f /usr/include/stdlib.h ] || need+=(gcc libc6-dev)
	for package; do
		have "$package" || need+=("$package")
	done
	if [ -n "${PG_CONFIG:-}" ] && [ ${#need[@]} -eq 0 ]; then
		return
	fi

	command -v apt-get >/dev/null || die "please install: PostgreSQL $OLDEST or later with its" \
		"development files, and ${need[*]:-nothing else}; this script only knows apt"
	[ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
		die "there is no sudo; to be installed by root first:" \
			"$([ -n "${PG_CONFIG:-}" ] || echo "PostgreSQL $OLDEST or later with its development files")" "${need[*]}"
	say "Packages are missing. Reading the package lists (apt-get update)."
	apt_get update || say "That failed; going on with the lists that are there."
	if [ -z "${PG_CONFIG:-}" ]; then
		[ -n "$NEWEST" ] || choose_version
		installed "postgresql-$NEWEST" || need+=("postgresql-$NEWEST")
		need+=("postgresql-server-dev-$NEWEST")
	fi
	say "About to install with apt$([ "$(id -u)" -eq 0 ] || echo ' and sudo'): ${need[*]}"
	if [[ " ${need[*]} " == *" postgresql-$NEWEST "* ]]; then
		apt_get install postgresql-common || die "apt-get failed"
		without_main_cluster apt_get install "${need[@]}" || die "apt-get failed"
	else
		apt_get install "${need[@]}" || die "apt-get failed"
	fi
	if [ -z "${PG_CONFIG:-}" ]; then
		PG_CONFIG=/usr/lib/postgresql/$NEWEST/bin/pg_config
		usable "$PG_CONFIG" || die "PostgreSQL $NEWEST is incomplete after its installation"
	fi
}

# Installs a package that a test needs and that can be done without, where that is possible.
prepare_optional()
{
	have "$1" && return
	command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; } || return 0
	say "About to install with apt$([ "$(id -u)" -eq 0 ] || echo ' and sudo'): $1"
	{ apt_get update && apt_get install "$1"; } || say "That failed; what needs it is skipped."
}

# True if what we need of a package is there, however it got there.
have()
{
	case $1 in
		libipc-run-perl) perl -MIPC::Run -e 1 2>/dev/null ;;
		perl) command -v prove >/dev/null ;;
		python3-psycopg2) python3 -c 'import psycopg2' 2>/dev/null || installed "$1" ;;
		binutils) command -v nm >/dev/null ;;
		cppcheck | clang-format*) command -v "$1" >/dev/null ;;
		*) installed "$1" ;;
	esac
}

apt_get()
{
	local log status=0

	log=$(mktemp)
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "$@" \
		</dev/null >"$log" || status=$?
	[ "$status" -eq 0 ] || cat "$log" >&2
	rm -f "$log"
	return "$status"
}

# Sets NEWEST to the distribution's version, or to one of PostgreSQL's own
# repository where the distribution's is too old.
choose_version()
{
	local script=/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh

	NEWEST=$(apt-cache show postgresql 2>/dev/null |
		sed -n 's/^Depends:.*postgresql-\([0-9][0-9]*\).*/\1/p' | sort -n | tail -n 1) || true
	if [ "${NEWEST:-0}" -lt "$OLDEST" ]; then
		say "This distribution has PostgreSQL ${NEWEST:-(none)}, and version $OLDEST or later is needed:"
		say "about to add PostgreSQL's own package repository, apt.postgresql.org."
		apt_get install postgresql-common ca-certificates || die "apt-get failed"
		as_root "$script" -y </dev/null >/dev/null || die "adding apt.postgresql.org failed"
		NEWEST=17
	fi
}

# Runs a command while Debian's packages do not create and start the server
# "main", which nobody has asked for.
without_main_cluster()
{
	local status=0

	CREATECLUSTER_SAVED=$(mktemp)
	cp "$CREATECLUSTER" "$CREATECLUSTER_SAVED" 2>/dev/null || : >"$CREATECLUSTER_SAVED"
	say "(without the server \"main\" that Debian would start; pg_createcluster makes one)"
	{ cat "$CREATECLUSTER_SAVED" && echo 'create_main_cluster = false'; } |
		as_root tee "$CREATECLUSTER" >/dev/null
	"$@" || status=$?
	restore_createcluster
	return "$status"
}

restore_createcluster()
{
	if [ -n "${CREATECLUSTER_SAVED:-}" ]; then
		as_root tee "$CREATECLUSTER" <"$CREATECLUSTER_SAVED" >/dev/null
		rm -f "$CREATECLUSTER_SAVED"
		CREATECLUSTER_SAVED=
	fi
}

# --- building -------------------------------------------------------------

# Makes the temporary directory $WORK.  Its path is short: the sockets in it
# must stay below 108 characters.
make_work()
{
	local base=${TMPDIR:-/tmp}

	[ ${#base} -le 40 ] || base=/tmp
	WORK=$(mktemp -d "$base/es-$1.XXXXXX")
	RUNUSER=$(id -un)
	if [ "$RUNUSER" = root ]; then
		RUNUSER=nobody
		! id postgres >/dev/null 2>&1 || RUNUSER=postgres
		chown "$RUNUSER" "$WORK"
	fi
	mkdir "$WORK/tmp"
	export TMPDIR=$WORK/tmp HOME=$WORK
}

# Copies the sources to $WORK/src, builds them there, and installs them into a
# private copy of PostgreSQL under $WORK/pg; puts its programs first in PATH.
build()
{
	local copt=-Werror

	VERSION=$("$PG_CONFIG" --version)
	say "Building pg_eventsourcing for $VERSION ($PG_CONFIG)."
	mkdir "$WORK/src"
	tar -C "$ROOT" --exclude=.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' \
		--exclude=./tmp_check --exclude=./results --exclude=./output_iso -cf - . |
		tar -C "$WORK/src" -xf -
	copy_postgres
	[ "$(id -u)" -ne 0 ] || chown -R "$RUNUSER" "$WORK"
	export PATH="$BINDIR:$PATH"
	cd "$WORK/src"
	if [ -n "${ES_SANITIZE:-}" ]; then
		copt='-fsanitize=address,undefined -fno-omit-frame-pointer -g'
		sanitize
	fi
	logged build as_user make -j2 PG_CONFIG="$PG_CONFIG" COPT="$copt" ${ES_SANITIZE:+with_llvm=no}
	logged install as_user make install PG_CONFIG="$PG_CONFIG" DESTDIR="$WORK/pg" ${ES_SANITIZE:+with_llvm=no}
}

# Puts a script in the place of the copied server, which starts it with the runtime of
# AddressSanitizer.  PostgreSQL itself is not instrumented, and frees at the end of a
# process what it has not freed: leaks are not looked for.  With some libraries that a
# distribution's PostgreSQL is linked with (libp11-kit), the runtime waits for itself.
sanitize()
{
	mv "$BINDIR/postgres" "$BINDIR/postgres.real"
	cat >"$BINDIR/postgres" <<-END
		#!/bin/bash
		export LD_PRELOAD=$(gcc -print-file-name=libasan.so)
		export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=1:handle_segv=0
		export UBSAN_OPTIONS=print_stacktrace=1
		exec -a "\$0" "\$0.real" "\$@"
	END
	chmod 755 "$BINDIR/postgres"
	timeout 60 "$BINDIR/postgres" -V >/dev/null 2>&1 || die "This PostgreSQL does not start with AddressSanitizer."
}

# Copies PostgreSQL's programs, modules and support files to $WORK/pg.  They
# find each other by their relative places, as in a temporary installation of
# PostgreSQL's own tests.
copy_postgres()
{
	local dir program

	BINDIR=$WORK/pg$("$PG_CONFIG" --bindir)
	mkdir -p "$BINDIR"
	for program in "$("$PG_CONFIG" --bindir)"/{pg_*,postgres,initdb,psql,pgbench,createdb,dropdb,createuser,dropuser,vacuumdb}; do
		[ ! -x "$program" ] || cp "$program" "$BINDIR/"
	done
	for dir in "$("$PG_CONFIG" --pkglibdir)" "$("$PG_CONFIG" --sharedir)"; do
		mkdir -p "$WORK/pg$dir"
		tar -C "$dir" --exclude=./pgxs --exclude=./man -cf - . | tar -C "$WORK/pg$dir" -xf -
	done
}

# Runs a command quietly; shows what it said if it fails, and ends.
logged()
{
	local name=$1

	shift
	if ! in_group "$@" >"$WORK/$name.log" 2>&1; then
		cat "$WORK/$name.log" >&2
		die "$name failed"
	fi
}

# Starts a server in $WORK/$1, with further settings from the arguments;
# sets PGHOST, PGPORT and PGUSER for its clients.
start_server()
{
	local name=$1 setting

	shift
	logged initdb as_user "$BINDIR/initdb" -D "$WORK/$name" -A trust -N -U postgres \
		-E UTF8 --no-locale
	for setting in "listen_addresses = ''" "unix_socket_directories = '$WORK'" \
		'fsync = off' "log_min_messages = 'warning'" "$@"; do
		printf '%s\n' "$setting" >>"$WORK/$name/postgresql.conf"
	done
	logged start as_user "$BINDIR/pg_ctl" -D "$WORK/$name" -l "$WORK/$name/server.log" -w start
	export PGHOST=$WORK PGPORT=5432 PGUSER=postgres
}

stop_server()
{
	logged stop as_user "$BINDIR/pg_ctl" -D "$WORK/$1" -m fast -w stop
}
