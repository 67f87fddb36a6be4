# Three layers that change at their own pace: the dependencies, Entrybook, and what runs it.
# deploy/dry-run goes through these steps without a container engine.

FROM rust:1.95-bookworm AS build
WORKDIR /src

# 1. The dependencies, from the manifests and a stand-in for each crate. Built again only when a manifest or the lock file changes.
COPY Cargo.toml Cargo.lock ./
COPY api/Cargo.toml api/
COPY benchmarks/Cargo.toml benchmarks/
COPY commands/Cargo.toml commands/
COPY domain/Cargo.toml domain/
COPY postgres/Cargo.toml postgres/
COPY projections/Cargo.toml projections/
COPY proof/Cargo.toml proof/
COPY tests/Cargo.toml tests/
COPY ui/Cargo.toml ui/
RUN mkdir -p api/src benchmarks/src commands/src domain/src postgres/src projections/src proof/src tests/it tests/src ui/src \
    && touch api/src/lib.rs commands/src/lib.rs domain/src/lib.rs postgres/src/lib.rs projections/src/lib.rs proof/src/lib.rs tests/src/lib.rs ui/src/lib.rs \
    && echo 'fn main() {}' > api/src/main.rs \
    && cp api/src/main.rs tests/it/main.rs \
    && cp api/src/main.rs benchmarks/src/main.rs \
    && cargo build --release --locked --package entrybook --bin entrybook

# The commit, for `entrybook_build_info`: docker build --build-arg BUILD_REVISION=$(git rev-parse --short HEAD)
ARG BUILD_REVISION=unknown

# 2. Entrybook. Files keep the times of the checkout, which may be older than the stand-ins built above: cargo would take those for
#    up to date. Hence the touch.
COPY migrations migrations
COPY api api
COPY commands commands
COPY domain domain
COPY postgres postgres
COPY projections projections
COPY proof proof
COPY ui ui
RUN find api commands domain migrations postgres projections proof ui -type f -exec touch {} + \
    && cargo build --release --locked --package entrybook --bin entrybook \
    && mkdir -p rootfs/var/lib/entrybook

# 3. What runs: the program alone. Pages, translations and migrations are in it; nothing is fetched or installed.
FROM debian:bookworm-slim AS runtime

LABEL org.opencontainers.image.title="Entrybook" \
      org.opencontainers.image.description="A login service whose whole history can be replayed and proved" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /src/target/release/entrybook /usr/local/bin/entrybook
COPY --from=build --chown=10001:10001 /src/rootfs/var/lib/entrybook /var/lib/entrybook

ENV ENTRYBOOK_LISTEN=0.0.0.0:8080 \
    ENTRYBOOK_DATA_DIR=/var/lib/entrybook \
    ENTRYBOOK_LOG_FORMAT=json

USER 10001:10001
WORKDIR /var/lib/entrybook
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["entrybook", "healthcheck"]
ENTRYPOINT ["entrybook"]
CMD ["serve"]
