"""What docker-compose.yml must hold, over `docker-compose config --format json` on standard input."""

import json
import sys

project = json.load(sys.stdin)
services = project["services"]
problems = []


def must(holds: bool, otherwise: str) -> None:
    if not holds:
        problems.append(otherwise)


must(
    set(services) == {"postgres", "migrate", "entrybook", "nginx", "backup", "restore"},
    "there are other services than postgres, migrate, entrybook, nginx, backup and restore",
)
postgres, entrybook, nginx = services["postgres"], services["entrybook"], services["nginx"]

must(postgres["image"] == "postgres:17", "postgres is not postgres:17")
book = [volume for volume in postgres["volumes"] if volume["target"] == "/var/lib/postgresql/data"]
must([volume["type"] for volume in book] == ["volume"], "the data of postgres is in no named volume")
must("pg_isready" in postgres["healthcheck"]["test"], "postgres is not checked with pg_isready")
must("ports" not in postgres and "ports" not in entrybook, "postgres or entrybook can be reached from outside")
must(entrybook["depends_on"]["postgres"]["condition"] == "service_healthy", "entrybook does not wait for postgres")
must(nginx["depends_on"]["entrybook"]["condition"] == "service_healthy", "nginx does not wait for entrybook")
must(
    entrybook["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    and entrybook["environment"]["ENTRYBOOK_MIGRATE"] == "no",
    "entrybook does not leave the migrations to migrate",
)


def secrets(service: dict) -> set[str]:
    return {secret["source"] for secret in service.get("secrets") or []}


owners = {"postgres_password", "entrybook_owner_password", "entrybook_migrate_config"}
must(not owners & (secrets(entrybook) | secrets(nginx)), "a service that strangers talk to has a password that owns the tables")
for name in ("entrybook", "nginx", "migrate"):
    service = services[name]
    must(service.get("read_only") is True, f"{name} can write to its root")
    must(service.get("cap_drop") == ["ALL"], f"{name} keeps capabilities")
for name, service in services.items():
    must(service.get("mem_limit") and service.get("pids_limit"), f"{name} may take all of the machine")
    must("no-new-privileges:true" in service.get("security_opt", []), f"{name} may gain privileges")
    must(not service.get("privileged"), f"{name} is privileged")
    must(":" in service["image"], f"the image of {name} has no tag")
    for key, value in (service.get("environment") or {}).items():
        secret = "PASSWORD" in key or "MASTER_KEY" in key or "DATABASE_URL" in key
        must(not (secret and value and not key.endswith("_FILE")), f"{name} has a secret in its environment: {key}")
for name in ("front", "back"):
    must(project["networks"][name].get("internal") is True, f"the network {name} leads outside")
must(set(postgres["networks"]) == {"back"}, "postgres is in other networks than back")
must("edge" not in entrybook["networks"], "entrybook can reach the outside")
must("back" not in nginx["networks"], "nginx can reach postgres")

tools = {name for name, service in services.items() if service.get("profiles") == ["tools"]}
must(tools == {"backup", "restore"}, "backup and restore are not what the profile tools has")
for name, service in services.items():
    options = (service.get("logging") or {}).get("options") or {}
    must({"max-size", "max-file"} <= set(options), f"what {name} prints is kept without end")
for name in tools:
    must(set(services[name]["networks"]) == {"back"}, f"{name} is in other networks than back")
    must(services[name].get("read_only") is True and services[name].get("cap_drop") == ["ALL"], f"{name} has more rights than it needs")

for problem in problems:
    print(f"docker-compose.yml: {problem}")
print(f"{len(services)} services, {len(problems)} problems")
sys.exit(1 if problems else 0)
