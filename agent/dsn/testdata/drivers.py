"""Connects by each connection string of its standard input, as drivers.js does."""
import json
import sys

import sqlalchemy


def sql(query, value):
    def run(url):
        engine = sqlalchemy.create_engine(url.replace("postgresql+psycopg:", "postgresql+psycopg2:"), poolclass=sqlalchemy.pool.NullPool)
        with engine.connect() as c:
            return value(c.execute(sqlalchemy.text(query)).fetchone())
    return run


def libpq(url):
    import psycopg2
    c = psycopg2.connect(url)
    try:
        return c.info.ssl_in_use
    finally:
        c.close()


drivers = {
    "psycopg": sql("select ssl from pg_stat_ssl where pid = pg_backend_pid()", lambda row: row[0]),
    "pymysql": sql("show status like 'Ssl_cipher'", lambda row: row[1] != ""),
    "libpq": libpq,
}
out = []
for t in json.load(sys.stdin):
    try:
        t["encrypted"] = drivers[t["driver"]](t["url"])
    except Exception as e:  # what a driver raises is its own
        t["error"] = str(e)
    out.append(t)
print(json.dumps(out))
