"""The rules of deny.toml that need no database, over `cargo metadata` on standard input.

Owns no rule: licences, banned crates and sources are read from deny.toml. Stands in for cargo-deny where that is not installed, and
is stricter in one thing: a licence must be stated in the crate's manifest.
"""

import json
import re
import sys

try:
    import tomllib
except ModuleNotFoundError:  # Before Python 3.11; pip brings its own.
    from pip._vendor import tomli as tomllib


def allowed(expression: str, licences: set[str]) -> bool:
    """Whether an SPDX expression can be met with these licences. "/" is how it was written before SPDX."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def alternatives() -> bool:
        result = conjunction()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            # Both sides are read, whatever the first gave.
            result = conjunction() or result
        return result

    def conjunction() -> bool:
        result = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            result = one() and result
        return result

    def one() -> bool:
        token = tokens.pop(0) if tokens else ""
        if token == "(":
            result = alternatives()
            if not tokens or tokens.pop(0) != ")":
                raise ValueError(f"{expression!r} is no SPDX expression")
            return result
        if tokens and tokens[0] == "WITH":
            tokens.pop(0)
            token = f"{token} WITH {tokens.pop(0) if tokens else ''}"
        return token in licences

    result = alternatives()
    if tokens:
        raise ValueError(f"{expression!r} is no SPDX expression")
    return result


def main() -> int:
    with open(sys.argv[1], "rb") as file:
        rules = tomllib.load(file)
    metadata = json.load(sys.stdin)
    licences = set(rules["licenses"]["allow"])
    banned = {ban["crate"]: ban["reason"] for ban in rules["bans"]["deny"]}
    # Cargo's lock file lists optional parts of dependencies that nothing uses; what is used stands in the resolved graph.
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    problems = []
    for package in metadata["packages"]:
        if package["id"] not in used:
            continue
        name = f"{package['name']} {package['version']}"
        expression = package["license"] or ""
        try:
            if not allowed(expression, licences):
                problems.append(f"{name}: its licence is {expression or 'not stated'}, which deny.toml does not allow")
        except ValueError as error:
            problems.append(f"{name}: {error}")
        if package["name"] in banned:
            problems.append(f"{name}: banned ({banned[package['name']]})")
        source = package["source"]
        if source and source != "registry+https://github.com/rust-lang/crates.io-index":
            problems.append(f"{name}: it comes from {source}, and all must come from crates.io")
        if not source:
            for dependency in package["dependencies"]:
                if dependency["req"] == "*" and not dependency.get("path"):
                    problems.append(f"{name}: it takes any version of {dependency['name']}")
    for problem in problems:
        print(problem)
    print(f"{len(used)} crates, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
