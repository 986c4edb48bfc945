# Makes an upgrade script out of its source: fills in what the source takes from
# the modules of src/sql, so that it is written once.
#
#   --@ module               the whole module
#   --@ module STATEMENT     its statements that begin with STATEMENT
#
# A function or view that is there already is replaced, so that its privileges
# stay and what depends on it.

/^--@ / {
	module = $2
	start = $0
	sub(/^--@ [^ ]+ */, "", start)
	take("src/sql/" module ".sql", start)
	next
}

{ print }

# Prints the statements of a file that begin with start, or all of it.
function take(file, start,    line, statement, quotes, atomic, taken)
{
	statement = ""
	while ((getline line < file) > 0)
	{
		if (statement == "" && line ~ /^(--.*)?$/)
		{
			if (start == "")
				print line
			continue
		}
		if (statement == "")
			quotes = atomic = 0
		quotes += gsub(/\$[a-z_]*\$/, "&", line)
		if (line ~ /^BEGIN ATOMIC/)
			atomic = 1
		statement = statement line "\n"
		if (quotes % 2 == 1 || (atomic && line !~ /^END;/) || line !~ /;[ \t]*(--.*)?$/)
			continue
		if (start == "" || index(statement, start) == 1)
		{
			sub(/^CREATE (FUNCTION|PROCEDURE|VIEW)/, "CREATE OR REPLACE &", statement)
			sub(/^CREATE OR REPLACE CREATE/, "CREATE OR REPLACE", statement)
			printf "%s", statement
			taken++
		}
		statement = ""
	}
	close(file)
	if (!taken || statement != "")
	{
		print source ": " (taken ? "no end" : "nothing") " in " file " for " start > "/dev/stderr"
		failed = 1
		exit 1
	}
}
