# Building, installing and testing pg_eventsourcing.
#
#   make, make install, make installcheck   as for any extension; PG_CONFIG=... chooses the PostgreSQL
#   make demo                               install what is missing, build, show the extension at work
#   make check                              the same preparations, then every test
#   make check-world                        with the tests that take long, on every PostgreSQL installed
#   make sanitize                           regression tests with AddressSanitizer and UndefinedBehaviorSanitizer
#   make check-debian                       every test on newer releases of Debian, set up for it (as root)
#   make lint                               warnings, layers, symbols, formatting
#   make bench                              benchmarks, each against a baseline

EXTENSION = pg_eventsourcing
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)

MODULE_big = $(EXTENSION)
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

# The install script is these modules, in this order.  Scripts of versions that
# have been released, and what leads to the next one, are in upgrade/ (see
# docs/upgrading.md).
SQL_MODULES = schema role events guard append read admin projection async subscription replay load grant
SQL_FILES = $(SQL_MODULES:%=src/sql/%.sql)
MAIN_SCRIPT = $(EXTENSION)--$(EXTVERSION).sql
UPGRADE_SOURCE = $(wildcard upgrade/$(EXTENSION)--*--$(EXTVERSION).sql.in)
UPGRADE_SCRIPT = $(patsubst upgrade/%.in,%,$(UPGRADE_SOURCE))
DATA = $(sort $(wildcard upgrade/$(EXTENSION)--*.sql))
DATA_built = $(MAIN_SCRIPT) $(UPGRADE_SCRIPT)

REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test

PG_CPPFLAGS = -DES_VERSION='"$(EXTVERSION)"'
EXTRA_CLEAN = tmp_check $(wildcard src/*.gcda src/*.gcno)

PG_CONFIG ?= pg_config

# These goals work before there is a PostgreSQL to ask, so they go without PGXS
# (which has a `check` of its own).
OUR_GOALS = demo check check-world check-debian sanitize lint bench

ifeq ($(if $(MAKECMDGOALS),$(filter-out $(OUR_GOALS),$(MAKECMDGOALS)),all),)

# A PG_CONFIG that was asked for is passed on; the default above is not, since
# the scripts look further than PATH.
SCRIPT_ENV = PG_CONFIG='$(if $(filter file,$(origin PG_CONFIG)),,$(PG_CONFIG))'

.PHONY: $(OUR_GOALS)

demo check check-world lint:
	@$(SCRIPT_ENV) exec bash test/$@

check-debian:
	@exec bash test/debian

sanitize:
	@$(SCRIPT_ENV) ES_SANITIZE=1 ES_TAP='040 041 042' exec bash test/check

bench:
	@$(SCRIPT_ENV) exec bash test/bench/run

else

ifneq ($(filter $(OUR_GOALS),$(MAKECMDGOALS)),)
$(error Run `make $(firstword $(filter $(OUR_GOALS),$(MAKECMDGOALS)))` on its own)
endif

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(and $(PGXS),$(wildcard $(PGXS))),)
$(error $(PG_CONFIG) finds no PostgreSQL with development files: install them \
(postgresql-server-dev-NN), say PG_CONFIG=/path/to/pg_config, or see what `make demo` does)
endif
include $(PGXS)

# PGXS tracks header dependencies only where PostgreSQL was built to do so.
$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*.h) $(EXTENSION).control

$(MAIN_SCRIPT): $(SQL_FILES) $(EXTENSION).control Makefile
	@{ printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit' && \
	   for module in $(SQL_FILES); do echo && cat $$module || exit 1; done; } > $@.tmp
	@mv $@.tmp $@

# Each upgrade replaces es.version(), even if nothing else: sessions take it as the
# sign to compare their library with the version that is installed.
$(UPGRADE_SCRIPT): %: upgrade/%.in upgrade/end.sql upgrade/assemble.awk $(SQL_FILES) Makefile
	@printf '%s\n' '\echo Use "ALTER EXTENSION $(EXTENSION) UPDATE" to load this file. \quit' '' \
	   '--@ admin CREATE FUNCTION es.version' | cat - $< upgrade/end.sql | awk -f upgrade/assemble.awk -v source=$< > $@.tmp
	@mv $@.tmp $@

endif
