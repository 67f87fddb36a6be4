# shellcheck shell=bash
# What ./start and ./check share. Sourced, never run. Works with the bash 3.2 of macOS.

# The name of the program, for its messages. Callers may set it before sourcing.
program=${program:-$(basename -- "$0")}

say() { printf '%s\n' "$program: $*" >&2; }
die() {
    say "$*"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# Whether something can be installed without asking anybody for a password.
may_be_root() { is_root || { has sudo && sudo -n true 2>/dev/null; }; }

as_root() {
    if is_root; then "$@"; else sudo -n "$@"; fi
}

apt_is_fresh=
# Brings the lists of Debian packages up to date, once.
apt_update() {
    [ -z "$apt_is_fresh" ] || return 0
    # One unreachable source among several is no reason to stop.
    as_root apt-get update -qq >/dev/null 2>&1 || true
    apt_is_fresh=yes
}

# Installs Debian packages, quietly; what apt-get says is shown when it fails.
apt_install() {
    local output
    apt_update
    if ! output=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" 2>&1); then
        printf '%s\n' "$output" >&2
        return 1
    fi
}

# Installs by whichever package manager there is: the names for apt-get, dnf, apk, pacman and Homebrew; "-" where there is none.
install_packages() {
    local what=$1 apt=$2 dnf=$3 apk=$4 pacman=$5 brew=$6
    if has brew && ! is_root && [ "$brew" != - ]; then
        say "installing $what with Homebrew"
        # shellcheck disable=SC2086 # names, split at the spaces
        brew install --quiet $brew >&2
        return
    fi
    may_be_root || return 1
    # shellcheck disable=SC2086 # names, split at the spaces
    if has apt-get && [ "$apt" != - ]; then
        say "installing $what with apt-get"
        apt_install $apt
    elif has dnf && [ "$dnf" != - ]; then
        say "installing $what with dnf"
        as_root dnf -y -q install $dnf >&2
    elif has apk && [ "$apk" != - ]; then
        say "installing $what with apk"
        as_root apk add --quiet $apk >&2
    elif has pacman && [ "$pacman" != - ]; then
        say "installing $what with pacman"
        as_root pacman -S --noconfirm --needed $pacman >&2
    else
        return 1
    fi
}

# cargo may be installed and not yet on the PATH of a shell that was open before.
ensure_cargo() {
    local bin
    if ! has cargo; then
        for bin in "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin" /usr/local/cargo/bin; do
            if [ -x "$bin/cargo" ]; then
                export PATH="$bin:$PATH"
                break
            fi
        done
    fi
    has cargo || die "cargo is missing. Install Rust 1.90 or newer (https://rustup.rs), open a new shell and run this again."
    cargo --version >/dev/null 2>&1 || die "cargo is installed but does not run. With rustup, \`rustup default stable\` gives it a toolchain."
}

# Some dependencies hold C (the cryptography of aws-lc), and rustc links with cc.
ensure_c_compiler() {
    has cc && return
    if [ "$(uname -s)" = Darwin ]; then
        die "a C compiler is missing. Run: xcode-select --install"
    fi
    install_packages "a C compiler" "gcc libc6-dev" "gcc glibc-devel" "gcc musl-dev" gcc - || true
    has cc || die "a C compiler is missing and could not be installed: install gcc (Debian: apt-get install gcc libc6-dev) and run this again."
}
