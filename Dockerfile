# `make image` builds it. Each architecture is built in a stage of its own kind: with buildx and another platform than
# the host's, that is an emulated machine, which works and is slow.

FROM rust:1.95-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libssl-dev make pkg-config zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The dependencies, under sources that do nothing: this layer is made anew only when one of these files changes.
COPY Cargo.toml Cargo.lock build.rs ./
COPY fixtures/Cargo.toml fixtures/
RUN mkdir -p src benches fixtures/src \
    && touch src/lib.rs fixtures/src/lib.rs benches/decode.rs benches/end_to_end.rs \
    && echo 'fn main() {}' >src/main.rs \
    && cargo build --release --locked --bin atkafka
COPY schema schema
COPY src src
# Cargo goes by times of change, and those of the sources are older than the ones before.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin atkafka \
    && strip --strip-debug -o /atkafka target/release/atkafka \
    && /atkafka --version

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 atkafka \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/atkafka --shell /usr/sbin/nologin atkafka \
    && install -d -o atkafka -g atkafka -m 0750 /var/lib/atkafka
COPY --from=build /atkafka /usr/local/bin/atkafka
COPY LICENSE packaging/third-party-notices.txt /usr/share/doc/atkafka/

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="atkafka" \
      org.opencontainers.image.description="AT Protocol events to Kafka: nothing lost, in order" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

# As under systemd: cursors are kept there when events go to Kafka. A new volume takes over the folder's owner.
ENV STATE_DIRECTORY=/var/lib/atkafka
WORKDIR /var/lib/atkafka
VOLUME /var/lib/atkafka
USER 10001:10001
EXPOSE 6009
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["atkafka", "healthcheck"]
ENTRYPOINT ["atkafka"]
CMD ["--help"]
