# tollgate alone in an image: one static binary, no shell, no package manager, no root.
# Works with BuildKit and with the classic builder (so no heredocs and no `RUN --mount`).

FROM rust:1-bookworm AS build
WORKDIR /src
# glibc linked in: malloc and name resolution as everywhere else, and no second target to install. An explicit --target
# keeps this flag away from build scripts; taken from the compiler, so that the same file builds on arm64.
RUN rustc -vV | sed -n 's/^host: //p' > /target
# Packed relocations, and (where Rust's linker is lld) equal functions only once: a tenth smaller.
RUN case $(cat /target) in x86_64-*) icf="-C link-arg=-Wl,--icf=all" ;; esac \
 && echo "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs ${icf:-}" > /flags

# Dependencies first, in a layer that only a change of Cargo.toml or Cargo.lock rebuilds. Cargo wants a file behind each
# bench that Cargo.toml names, though none is built. Removing the fingerprints makes the real sources count as changed,
# whatever their modification times.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches \
 && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
 && awk '/^\[/ { bench = ($0 == "[[bench]]") } bench && $1 == "name" { gsub(/"/, "", $3); print $3 }' Cargo.toml \
  | while read -r bench; do echo 'fn main() {}' > "benches/$bench.rs"; done \
 && RUSTFLAGS=$(cat /flags) cargo build --release --locked --target "$(cat /target)" \
 && rm -rf src target/*/release/.fingerprint/tollgate-*

COPY config/rules.schema.json config/
COPY src src
RUN RUSTFLAGS=$(cat /flags) cargo build --release --locked --bin tollgate --target "$(cat /target)" \
 && cp "target/$(cat /target)/release/tollgate" /tollgate

FROM scratch
COPY --from=build /tollgate /tollgate
COPY config/rules.yaml /etc/tollgate/rules.yaml
# In a container every address is the container's own, and the host decides what is published.
ENV TOLLGATE_RULES=/etc/tollgate/rules.yaml \
    TOLLGATE_LISTEN=0.0.0.0:8081 \
    TOLLGATE_ADMIN=0.0.0.0:8082 \
    TOLLGATE_UPSTREAM_LISTEN=0.0.0.0:8083
# A number: there is no /etc/passwd to look a name up in, and Kubernetes' runAsNonRoot can check it.
USER 65532:65532
EXPOSE 8081 8082
ENTRYPOINT ["/tollgate"]
CMD ["serve"]
