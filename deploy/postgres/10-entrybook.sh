#!/bin/bash
# Run by the postgres image once, when the volume is new. Entrybook's login owns its database and is no superuser, so the guards that
# keep the book append-only hold for it. After migrating it acts as entrybook_app, which may do less still.
set -euo pipefail
password=$(cat "${ENTRYBOOK_DATABASE_PASSWORD_FILE:-/run/secrets/entrybook_database_password}")
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres --set password="$password" <<'SQL'
CREATE ROLE entrybook LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
CREATE ROLE entrybook_app NOLOGIN;
GRANT pg_read_all_stats TO entrybook_app;
GRANT entrybook_app TO entrybook;
CREATE DATABASE entrybook OWNER entrybook ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE entrybook FROM PUBLIC;
SQL
