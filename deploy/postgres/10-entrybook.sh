#!/bin/bash
# Run by the postgres image once, when the volume is new. Two logins, neither a superuser: entrybook_owner migrates and owns the tables;
# entrybook, which requests are answered with, owns nothing and acts as entrybook_app, which may add to the book and not change it.
set -euo pipefail
password=$(cat "${ENTRYBOOK_DATABASE_PASSWORD_FILE:-/run/secrets/entrybook_database_password}")
owner_password=$(cat "${ENTRYBOOK_OWNER_PASSWORD_FILE:-/run/secrets/entrybook_owner_password}")
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
    --set password="$password" --set owner_password="$owner_password" <<'SQL'
CREATE ROLE entrybook_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'owner_password';
CREATE ROLE entrybook LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
CREATE ROLE entrybook_app NOLOGIN;
GRANT pg_read_all_stats TO entrybook_app;
GRANT entrybook_app TO entrybook, entrybook_owner;
CREATE DATABASE entrybook OWNER entrybook_owner ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE entrybook FROM PUBLIC;
GRANT CONNECT ON DATABASE entrybook TO entrybook;
GRANT TEMPORARY ON DATABASE entrybook TO entrybook_app;
SQL
